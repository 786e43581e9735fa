// One side of the session protocol, version 1 (docs/session-protocol.md): frames, and the numbers and messages of
// a session. It uses no I/O except the storage, and no timers; tieline.js adds those.

export const HELLO = 1, WELCOME = 2, REFUSED = 3;
export const DATA = 0x10, END = 0x11, ACK = 0x12, PING = 0x13, PONG = 0x14, BYE = 0x15;

// For each kind, the sizes of the fields after the first byte: 1 is a number, 8 a BigInt, any other size a hex
// string. Then, whether data of any length follows.
const HEAD = [4, 1, 1], POSITION = [8, 8, 8], TICKET = [16, 16, 8, ...POSITION];
const FIELDS = {
  [HELLO]: [HEAD, false], [WELCOME]: [[1, ...TICKET], false], [REFUSED]: [[1, 1], true],
  [DATA]: [[8, 8], true], [END]: [[8, 8], false], [ACK]: [[8], false], [PING]: [[8], false],
  [PONG]: [[8], false], [BYE]: [[8], true],
};
const MAGIC = "5449454c", VERSION = 1;
const NOTHING = new Uint8Array();

// At most this many messages and bytes are kept until they are acknowledged. One message may exceed the bytes.
const MAX_KEPT = 1024, MAX_KEPT_BYTES = 1 << 20;
// An acknowledgement is sent alone after this many ms, messages or bytes.
const ACK_AFTER = 100, ACK_MESSAGES = 64n, ACK_BYTES = 1 << 20;

const utf8 = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const unhex = (text) => Uint8Array.from(text.match(/../g) ?? [], (byte) => parseInt(byte, 16));

/** The other side violated the protocol. */
export class Broken extends Error {}

/** Returns a frame. A Hello has no fields for a new session, otherwise those of a ticket. */
export function encode(kind, fields = [], rest = NOTHING) {
  let [sizes] = FIELDS[kind];
  if (kind === HELLO) {
    sizes = fields.length ? [...HEAD, ...TICKET] : HEAD;
    fields = [MAGIC, VERSION, fields.length ? 1 : 0, ...fields];
  }
  const length = sizes.reduce((sum, size) => sum + size, 1);
  const frame = new Uint8Array(length + rest.length), view = new DataView(frame.buffer);
  frame[0] = kind;
  let at = 1;
  sizes.forEach((size, index) => {
    if (size === 1) frame[at] = fields[index];
    else if (size === 8) view.setBigUint64(at, fields[index]);
    else frame.set(unhex(fields[index]), at);
    at += size;
  });
  frame.set(rest, at);
  return frame;
}

/** Returns a frame's `{ kind, fields, rest }`. Throws Broken with the word that the golden vectors use. */
export function decode(frame) {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  let at = 1;
  const read = (sizes) => sizes.map((size) => {
    const from = at;
    at += size;
    if (at > frame.length) throw new Broken("short");
    if (size === 1) return frame[from];
    return size === 8 ? view.getBigUint64(from) : hex(frame.subarray(from, at));
  });
  const kind = frame[0];
  if (!(kind in FIELDS)) throw new Broken("kind");
  const [sizes, hasRest] = FIELDS[kind];
  let fields;
  if (kind === HELLO) {
    if (read([4])[0] !== MAGIC) throw new Broken("magic");
    if (read([1])[0] !== VERSION) throw new Broken("version");
    const [flag] = read([1]);
    if (flag > 1) throw new Broken("flag");
    fields = flag ? read(TICKET) : [];
  } else {
    if (kind === WELCOME && frame.length > 1 && frame[1] !== VERSION) throw new Broken("version");
    fields = read(sizes);
  }
  if ((kind === DATA || kind === END) && fields[0] === 0n) throw new Broken("zero");
  const rest = frame.subarray(at);
  if (rest.length && !hasRest) throw new Broken("long");
  return { kind, fields, rest };
}

export const bytesOf = (text) => utf8.encode(text);

/** Returns a string if the bytes are UTF-8, otherwise the bytes. */
export function textOf(bytes) {
  try {
    return strict.decode(bytes);
  } catch {
    return bytes;
  }
}

// A storage keeps strings: the empty one is the end, `t` is followed by UTF-8 text, `b` by a character for each byte.
function pack(message) {
  if (message === null) return "";
  const text = textOf(message);
  if (typeof text === "string") return `t${text}`;
  let packed = "b";
  for (const byte of message) packed += String.fromCharCode(byte);
  return packed;
}

function unpack(stored) {
  if (stored === "") return null;
  const content = stored.slice(1);
  return stored[0] === "t" ? bytesOf(content) : Uint8Array.from(content, (it) => it.charCodeAt(0));
}

/**
 * The numbers and messages of a session. With a storage, they are stored before the other side hears of them:
 * each kept message in its own entry, `KEY.NUMBER`, and everything else in one record, `KEY`.
 */
export class Session {
  ticket = null;  // session, secret, epoch
  kept = [];  // the first has the number `acknowledged + 1`; null is the end
  keptBytes = 0;
  acknowledged = 0n; given = 0n; shown = 0n;
  received = 0n; taken = 0n; told = 0n;
  ended = false; theyEnded = false;
  tell = false; untoldBytes = 0; due = null;

  constructor(storage, key) {
    [this.storage, this.key] = [storage, key];
    const record = JSON.parse(storage?.getItem(key) ?? "null");
    if (record) {
      const [session, secret, epoch] = record.ticket;
      this.ticket = [session, secret, BigInt(epoch)];
      for (const name of ["acknowledged", "shown", "taken"]) this[name] = BigInt(record[name]);
      [this.ended, this.theyEnded] = [record.ended, record.theyEnded];
      // Messages that were received and not handled are sent again.
      this.received = this.told = this.taken;
    }
    for (let number = this.acknowledged + 1n; ; number++) {
      const stored = storage?.getItem(`${key}.${number}`) ?? null;
      if (stored === null) break;
      this.keep(unpack(stored));
    }
  }

  save() {
    if (!this.ticket) return;
    const record = {
      ticket: this.ticket.map(String), acknowledged: String(this.acknowledged), shown: String(this.shown),
      taken: String(this.taken), ended: this.ended, theyEnded: this.theyEnded && this.taken === this.received,
    };
    try {
      this.storage?.setItem(this.key, JSON.stringify(record));
    } catch {
      // The storage is full. If the older record is too old to resume from, the server refuses it and says why.
    }
  }

  forget() {
    this.storage?.removeItem(this.key);
    this.kept.forEach((_, at) => {
      this.storage?.removeItem(`${this.key}.${this.acknowledged + BigInt(at) + 1n}`);
    });
  }

  keep(message) {
    this.kept.push(message);
    this.keptBytes += message?.length ?? 0;
    if (message === null) this.ended = true;
  }

  /** If the storage has no room, throws the storage's error and does not keep the message. */
  push(message) {
    const number = this.acknowledged + BigInt(this.kept.length) + 1n;
    this.storage?.setItem(`${this.key}.${number}`, pack(message));
    this.keep(message);
  }

  get hasRoom() {
    return !this.kept.length || (this.kept.length < MAX_KEPT && this.keptBytes < MAX_KEPT_BYTES);
  }

  get hello() {
    return encode(HELLO, this.ticket ? [...this.ticket, this.received, this.taken, this.shown] : []);
  }

  welcome([, session, secret, epoch, received, acknowledged, sent]) {
    if (!this.ticket) {
      if (epoch !== 1n || received || acknowledged || sent) throw new Broken("the Welcome is not for a new session");
    } else if (session !== this.ticket[0] || epoch <= this.ticket[2]) {
      throw new Broken("the Welcome is for another session");
    } else if (received > this.shown || acknowledged > received
      || received < this.acknowledged || sent < this.received) {
      throw new Broken("the position in the Welcome is impossible");
    }
    this.tell = this.ticket !== null;
    this.ticket = [session, secret, epoch];
    this.release(acknowledged);
    this.given = received;
    this.save();
  }

  release(number) {
    if (number > this.shown) throw new Broken(`message ${number} was acknowledged, but only ${this.shown} were sent`);
    for (; this.acknowledged < number; this.acknowledged++) {
      this.storage?.removeItem(`${this.key}.${this.acknowledged + 1n}`);
      this.keptBytes -= this.kept.shift()?.length ?? 0;
    }
    if (this.given < number) this.given = number;
  }

  /** Returns whether this number is the next. An earlier one is only acknowledged again. */
  takes(number) {
    if (number <= this.received) {
      this.tell = true;
      return false;
    }
    if (this.theyEnded) throw new Broken("a message arrived after the end");
    if (number !== this.received + 1n) throw new Broken(`message ${number} arrived instead of ${this.received + 1n}`);
    this.received = number;
    return true;
  }

  took(number) {
    this.taken = number;
    this.due ??= performance.now() + ACK_AFTER;
    this.save();
  }

  /** Returns the next frame to write now, or null. Call `save` before writing it. */
  next() {
    const waiting = this.taken - this.told, at = Number(this.given - this.acknowledged);
    const isLast = this.theyEnded && this.taken === this.received;
    const isMuch = waiting >= ACK_MESSAGES || this.untoldBytes >= ACK_BYTES;
    let frame;
    if (at < this.kept.length) {
      this.given += 1n;
      if (this.shown < this.given) this.shown = this.given;
      const numbers = [this.given, this.taken], message = this.kept[at];
      frame = message === null ? encode(END, numbers) : encode(DATA, numbers, message);
    } else if (this.tell || (waiting && (isLast || isMuch || performance.now() >= this.due))) {
      frame = encode(ACK, [this.taken]);
    } else {
      return null;
    }
    [this.told, this.tell, this.due, this.untoldBytes] = [this.taken, false, null, 0];
    return frame;
  }

  get isOver() {
    return this.ended && !this.kept.length && this.theyEnded && this.told === this.received;
  }

  /** Returns whether both sides have ended and only acknowledgements are missing. */
  get isDone() {
    return this.ended && this.theyEnded && this.taken === this.received && this.kept.every((it) => it === null);
  }

  /** Returns the messages that the other side may not have received, and those that it cannot have received. */
  get lost() {
    const written = Number(this.shown - this.acknowledged);
    const messages = (from, to) => this.kept.slice(from, to).filter((it) => it !== null).map(textOf);
    return { unknown: messages(0, written), unsent: messages(written) };
  }
}
