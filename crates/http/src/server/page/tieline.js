// A line to a program that `tieline serve` serves on the web. It survives lost connections and, with a storage,
// reloads of the page: the reloaded page continues where the old one stopped, with nothing lost or duplicated.
//
//   import { connect } from "./tieline.js";
//   const line = connect("ws", { storage: sessionStorage });
//   line.onmessage = (message) => { … };   // a string, or a Uint8Array if it is not UTF-8
//   await line.send("hello");              // or bytes; waits for room
//
// The reference is docs/web.md.

import * as frames from "./session.js";
import { Broken, Session, bytesOf, decode, encode, textOf } from "./session.js";

const PROTOCOL = "tieline.1";
const UNKNOWN = 2, FULL = 8, DRAINING = 9;
const REFUSALS = {
  1: "the server speaks another version of the session protocol",
  2: "the session does not exist, or no longer exists",
  3: "a newer connection has resumed the session", 4: "the session belongs to another client",
  5: "a newer connection has resumed the session", 6: "messages that are missing are no longer kept",
  7: "one side no longer knows what it sent", 10: "the server did not understand the Hello",
};
// The limits of a message, in bytes, and of waiting calls of `send`.
const MAX_MESSAGE = (16 << 20) - 17, MAX_WAITING = 1024;
// In ms: how long connecting and the handshake may take, and the interval of the checks whether data arrived.
const PATIENCE = 20_000, HEARTBEAT = 10_000;
// The longest wait for a sign of life, in checks. It grows while connections are given up without success.
const MAX_LOOKS = 64;
// Close codes of a server that cannot accept what was sent. Sent again, it would end the next connection, too.
const FATAL = [1002, 1003, 1007, 1009];

const forPeople = (bytes) => new TextDecoder().decode(bytes.subarray(0, 1024));
// A handler's exception is reported as an error of the page; the line continues.
const report = (error) => { queueMicrotask(() => { throw error; }); };
const isPromise = (it) => typeof it?.then === "function";

class Line {
  onmessage = null; onreset = null; onclose = null; onstate = null;
  state = { name: "connecting", since: Date.now() };
  #open; #askExit; #isNear; #session;
  #socket = null; #isWelcome = false; #attempt = 0; #silence = 0; #looks = 1; #unsent = 0; #timers = {};
  #arrived = []; #isBusy = false; #waiting = [];
  #closing = null; #isOver = false; #over; #end;

  constructor(url, { storage = null, key, token = null, WebSocket = globalThis.WebSocket } = {}) {
    const target = new URL(url, globalThis.location?.href);
    target.protocol = target.protocol.replace("http", "ws");
    const protocols = token === null ? [PROTOCOL] : [PROTOCOL, `tieline.token.${token}`];
    this.#open = () => new WebSocket(target.href, protocols);
    this.#askExit = (session) => {
      const exit = new URL(`exit?session=${session}`, target);
      exit.protocol = exit.protocol.replace("ws", "http");
      const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
      return fetch(exit, { headers, credentials: "include", signal: AbortSignal.timeout(PATIENCE) });
    };
    this.#isNear = /^(localhost|127\.[\d.]+|\[::1\])$/.test(target.hostname);
    this.#session = new Session(storage, key ?? `tieline ${target.href}`);
    this.#over = new Promise((resolve) => { this.#end = resolve; });
    this.#dial();
  }

  /** Resolves when the message is kept, in the storage if there is one. It is sent as soon as possible. */
  send(message) {
    const view = ArrayBuffer.isView(message);
    const bytes = typeof message === "string" ? bytesOf(message)
      : view ? new Uint8Array(message.buffer, message.byteOffset, message.byteLength).slice()
        : new Uint8Array(message).slice();
    if (bytes.length > MAX_MESSAGE) {
      return Promise.reject(new RangeError(`the message has ${bytes.length} bytes; the limit is ${MAX_MESSAGE}`));
    }
    return this.#queue(bytes);
  }

  /** Ends the line after what was already sent. Resolves when the line has ended. */
  close() {
    this.#closing ??= this.#isOver || this.#session.ended ? this.#over : this.#queue(null).then(() => this.#over);
    return this.#closing;
  }

  /** Connects now if the line is waiting to reconnect. */
  retry() {
    if (!this.#isOver && !this.#socket && this.state.name === "away") this.#dial();
  }

  #queue(bytes) {
    if (this.#isOver || this.#closing || this.#session.ended) return Promise.reject(new Error("the line has ended"));
    if (this.#waiting.length >= MAX_WAITING && bytes) {
      return Promise.reject(new Error(`${MAX_WAITING} messages already wait to be sent`));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ bytes, resolve, reject });
      this.#flush();
    });
  }

  #call(handler, value) {
    try {
      const working = handler?.call(this, value);
      return isPromise(working) ? working.then(undefined, report) : undefined;
    } catch (error) {
      report(error);
    }
  }

  #say(name, more) {
    const since = this.state.name === name ? this.state.since : Date.now();
    this.state = { name, since, ...more };
    this.#call(this.onstate, this.state);
  }

  #after(name, delay, act) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = act && setTimeout(act, delay);
  }

  #dial() {
    this.#after("retry");
    const socket = this.#socket = this.#open();
    socket.binaryType = "arraybuffer";
    // Events of an abandoned socket are ignored.
    const ifOurs = (act) => (event) => { if (socket === this.#socket) act(event); };
    socket.onopen = ifOurs(() => {
      if (socket.protocol === PROTOCOL) socket.send(this.#session.hello);
      else this.#finish("the server does not support sessions");
    });
    socket.onmessage = ifOurs(({ data }) => this.#frame(data));
    socket.onclose = ifOurs(({ code, reason }) => this.#lost(code, reason));
    socket.onerror = () => {};
    this.#after("patience", PATIENCE, () => this.#lost());
  }

  #hangUp() {
    const socket = this.#socket;
    [this.#socket, this.#isWelcome, this.#unsent] = [null, false, 0];
    for (const name of ["patience", "heartbeat", "acknowledge"]) this.#after(name);
    socket?.close();
  }

  #lost(code, reason) {
    this.#hangUp();
    if (FATAL.includes(code)) return this.#then(() => this.#finish(reason || `closed with code ${code}`));
    // Nothing is left to reconnect for.
    if (this.#session.isDone) return this.#then(() => this.#finish(null));
    // When a remote server fails, thousands of clients may reconnect at once.
    const [first, initial, most] = this.#isNear ? [0, 50, 5_000] : [5_000 * Math.random(), 1_000, 120_000];
    const later = Math.min(initial * 1.6 ** (this.#attempt - 1), most) * (0.8 + 0.4 * Math.random());
    this.#after("retry", this.#attempt++ ? later : first, () => this.#dial());
    this.#say("away", { attempt: this.#attempt, code });
  }

  #frame(data) {
    this.#silence = 0;
    try {
      if (typeof data === "string") throw new Broken("a text message is not a frame");
      const { kind, fields, rest } = decode(new Uint8Array(data));
      if (this.#isWelcome) this.#received(kind, fields, rest);
      else this.#greeted(kind, fields, rest);
      this.#flush();
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
      this.#socket?.send(encode(frames.BYE, [this.#session.received], bytesOf(error.message)));
      this.#hangUp();
      this.#then(() => this.#finish(`the server violated the session protocol: ${error.message}`));
    }
  }

  #greeted(kind, fields, rest) {
    const session = this.#session;
    if (kind === frames.WELCOME) {
      session.welcome(fields);
      this.#isWelcome = true;
      this.#after("patience");
      this.#listen();
      return this.#say("connected");
    }
    if (kind !== frames.REFUSED) throw new Broken("the server did not answer the Hello");
    const [, code] = fields, why = forPeople(rest) || REFUSALS[code] || `refused with code ${code}`;
    if (code === FULL || code === DRAINING) return this.#lost();
    this.#hangUp();
    const goesOn = session.ticket && !session.ended && !session.theyEnded;
    if (code >= UNKNOWN && code < FULL && goesOn) return this.#then(() => this.#reset(why));
    this.#then(() => this.#finish(code === UNKNOWN && session.isDone ? null : why));
  }

  // Pings when nothing was received, and hangs up if there is no answer. Bytes that leave are a sign of life, too.
  // A browser does not report a message before it is complete, so after a connection that was given up, the next
  // one waits twice as long, until a message has arrived.
  #listen() {
    this.#after("heartbeat", HEARTBEAT, () => {
      const unsent = this.#socket.bufferedAmount ?? 0;
      if (unsent < this.#unsent) this.#silence = 0;
      this.#unsent = unsent;
      if (this.#silence > this.#looks) {
        this.#looks = Math.min(2 * this.#looks, MAX_LOOKS);
        return this.#lost();
      }
      if (this.#silence++ === 1) this.#socket.send(encode(frames.PING, [0n]));
      this.#listen();
    });
  }

  #received(kind, fields, rest) {
    const session = this.#session;
    this.#attempt = 0;
    if ([frames.DATA, frames.END, frames.ACK].includes(kind)) session.release(fields.at(-1));
    if (kind === frames.DATA && session.takes(fields[0])) {
      this.#looks = 1;
      session.untoldBytes += rest.length;
      this.#then(() => this.#hand(session, fields[0], rest));
    } else if (kind === frames.END && session.takes(fields[0])) {
      session.theyEnded = true;
      this.#then(() => {
        session.took(fields[0]);
        this.close().catch(() => {});
      });
    } else if (kind === frames.PING) {
      this.#socket.send(encode(frames.PONG, fields));
    } else if (kind === frames.BYE) {
      if (fields[0] > session.shown) throw new Broken("the server acknowledged messages that were never sent");
      session.release(fields[0]);
      this.#hangUp();
      this.#then(() => this.#finish(forPeople(rest) || null, true));
    } else if ([frames.HELLO, frames.WELCOME, frames.REFUSED].includes(kind)) {
      throw new Broken("a handshake frame after the handshake");
    }
  }

  // Runs one at a time: each waits until the page has handled the one before.
  #then(act) {
    this.#arrived.push(act);
    while (!this.#isBusy && this.#arrived.length) {
      const working = this.#arrived.shift()();
      if (!isPromise(working)) continue;
      this.#isBusy = true;
      working.then(() => {
        this.#isBusy = false;
        this.#then(() => {});
        this.#flush();
      });
    }
  }

  #hand(session, number, bytes) {
    const working = this.#call(this.onmessage, textOf(bytes));
    return working ? working.then(() => session.took(number)) : session.took(number);
  }

  #flush() {
    const session = this.#session, written = [];
    while (this.#waiting.length && (session.hasRoom || this.#waiting[0].bytes === null)) {
      const { bytes, resolve, reject } = this.#waiting.shift();
      try {
        session.push(bytes);
        resolve();
      } catch (error) {
        reject(error);
      }
    }
    if (!this.#isWelcome) return;
    for (let frame; (frame = session.next()); ) written.push(frame);
    if (written.length) session.save();
    written.forEach((frame) => this.#socket.send(frame));
    if (session.isOver) return this.#then(() => this.#finish(null));
    if (session.due) this.#after("acknowledge", session.due - performance.now(), () => this.#flush());
  }

  #reset(why) {
    const { storage, key, lost } = this.#session;
    this.#session.forget();
    this.#session = new Session(storage, key);
    this.#turnAway(why);
    this.#call(this.onreset, { why, ...lost });
    if (!this.#isOver) this.#dial();
  }

  // `ended`: the session has ended, so that the server may know how its program failed.
  #finish(why, ended = why === null) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#hangUp();
    this.#after("retry");
    const over = (failure) => {
      const { lost } = this.#session;
      this.#session.forget();
      this.#turnAway(why);
      this.#say("ended", { why, failure });
      this.#call(this.onclose, { why, failure, ...lost });
      this.#end();
    };
    // The session is kept until then, so that a page that is reloaded meanwhile asks again.
    return ended ? this.#failure().then(over) : over(null);
  }

  // Asks how the program failed: the session's farewell has no stderr.
  async #failure() {
    try {
      const answer = await this.#askExit(this.#session.ticket[0]);
      return answer.status === 200 ? await answer.json() : null;
    } catch {
      return null;
    }
  }

  // Messages that still wait for room were meant for the session that has ended.
  #turnAway(why) {
    for (const { reject } of this.#waiting.splice(0)) reject(new Error(why ?? "the line has ended"));
  }
}

/**
 * Returns a line to `url`, which may be relative to the page. With a `storage` such as `sessionStorage`, the next
 * page continues the session; `key` is its name there. Pages without a cookie need a `token`.
 */
export const connect = (url, options) => new Line(url, options);
