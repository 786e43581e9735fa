// The page: sends what is typed to the program and shows the program's messages, always as text. The log and
// the session's position are stored together, so a reloaded page shows everything.
import { connect } from "./tieline.js";

const MAX_LINES = 1000, MAX_CHARACTERS = 2000, MAX_DEPTH = 40, MAX_STDERR = 10;
const ARROWS = { in: "←", out: "→", note: "·", bad: "!" };
const IDS = ["state", "scroll", "log", "form", "text", "check", "example", "pretty", "end"];
const [state, scroll, log, form, text, check, example, pretty, end] = IDS.map((id) => document.getElementById(id));
const program = document.title;
// The browser's settings can forbid storage; then a reload starts anew.
const storageCalled = (name) => {
  try {
    return globalThis[name];
  } catch {
    return null;
  }
};
const storage = storageCalled("sessionStorage"), settings = storageCalled("localStorage");

const typed = [];  // sent messages, for the arrow keys
let lines = 0, browsing = 0, isAtEnd = true, isMoving = false;

const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

function cut(message) {
  if (typeof message !== "string") {
    const head = Array.from(message.subarray(0, 32), (byte) => byte.toString(16).padStart(2, "0"));
    return `${head.join(" ")}${message.length > 32 ? " …" : ""} (${message.length} bytes)`;
  }
  if (message.length <= MAX_CHARACTERS) return message;
  return `${message.slice(0, MAX_CHARACTERS)}… (${message.length} characters)`;
}

// Returns why this is not JSON, or null if it is.
function jsonError(text) {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return error.message;
  }
}

// Changes only white space: JSON.stringify(JSON.parse(line)) would change large numbers.
function indented(line) {
  if (jsonError(line) !== null) return line;
  let text = "", depth = 0;
  const broken = (by) => `\n${"  ".repeat(Math.min(depth += by, MAX_DEPTH))}`;
  for (const token of line.match(/"(?:[^"\\]|\\.)*"|\{\s*\}|\[\s*\]|[{}[\]:,]|[^\s"{}[\]:,]+/g)) {
    if (token === "{" || token === "[") text += token + broken(1);
    else if (token === "}" || token === "]") text += broken(-1) + token;
    else if (token === ",") text += token + broken(0);
    else text += token === ":" ? ": " : token;
  }
  return text;
}

function element(name, className, content) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = content;
  return made;
}

function show(kind, at, line) {
  const item = element("li", kind, "");
  const body = element("pre", "", pretty.checked ? indented(line) : line);
  body.line = line;
  item.append(element("time", "", clock(at)), element("span", "arrow", ARROWS[kind]), body);
  log.append(item);
  if (log.childElementCount > MAX_LINES) log.firstElementChild.remove();
  keepTheEnd();
  if (kind === "out" && typed.push(line) > MAX_LINES) typed.shift();
}

// New lines scroll into view, unless the user has scrolled up.
scroll.addEventListener("scroll", () => {
  isAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
});
function keepTheEnd() {
  if (!isAtEnd || isMoving) return;
  isMoving = true;
  requestAnimationFrame(() => {
    isMoving = false;
    scroll.scrollTop = scroll.scrollHeight;
  });
}

addEventListener("resize", keepTheEnd);

// Each line has its own storage entry and replaces the one a thousand lines before it. The path is part of the
// key because servers below other paths of the same origin share the storage.
const place = (number) => `log.${location.pathname}.${number % MAX_LINES}`;
function add(kind, message) {
  const at = Date.now(), line = cut(message);
  show(kind, at, line);
  try {
    storage?.setItem(place(lines), `${lines++} ${kind} ${at} ${line}`);
  } catch {
    // The storage is full: the line is shown, but not after a reload.
  }
}

function restore() {
  const kept = [];
  for (let number = 0; number < MAX_LINES; number++) {
    const stored = /^(\d+) (\w+) (\d+) ([^]*)$/.exec(storage?.getItem(place(number)) ?? "");
    if (stored) kept.push(stored.slice(1));
  }
  kept.sort(([one], [other]) => one - other);
  for (const [number, kind, at, line] of kept) {
    lines = Number(number) + 1;
    show(kind, Number(at), line);
  }
}

function ending(why, failure) {
  const reason = failure ? `the program has failed with ${failure.status.replace(": ", " ")}` : why;
  return reason ? `ended: ${reason}` : "ended";
}

function showState(name, words) {
  state.className = name;
  state.textContent = words;
  document.title = name === "connected" ? program : `${program}: ${name === "away" ? "disconnected" : name}`;
}

const PRETTY = `pretty.${location.pathname}`;
pretty.checked = settings?.getItem(PRETTY) === "true";
restore();
const line = connect("ws", { storage });
line.onmessage = (message) => add("in", message);
line.onreset = ({ why, unknown, unsent }) => {
  const lost = `Messages not delivered: ${unsent.length}, perhaps not delivered: ${unknown.length}`;
  add("bad", `the session was lost: ${why}. ${lost}. A new session starts, with a new process`);
};
line.onclose = ({ why, failure, unknown, unsent }) => {
  const count = unknown.length + unsent.length;
  const lost = count ? `. Messages perhaps not delivered: ${count}` : "";
  add(why || failure ? "bad" : "note", `${ending(why, failure)}${lost}`);
  const said = failure?.stderr?.trimEnd().split("\n").slice(-MAX_STDERR).join("\n");
  if (said) add("bad", `the last lines that it wrote to stderr:\n${said}`);
};
line.onstate = async ({ name, since, why, failure }) => {
  for (const it of [text, end, example, form.lastElementChild]) it.disabled = name === "ended";
  if (name === "connected") showState(name, "connected");
  if (name === "ended") showState(name, `${ending(why, failure)}. Reload to start again`);
  if (name !== "away") return;
  showState(name, `disconnected since ${clock(since)}; reconnecting`);
  // A browser does not say why a WebSocket failed, but a request has a status.
  const answer = await fetch("./", { method: "HEAD" }).catch(() => null);
  if (answer?.status === 401 && line.state.name === "away") {
    showState(name, "no longer logged in: reload this page to log in");
  }
};

// Returns the messages in a text. JSON may be typed on several lines and is sent on one: its strings cannot contain
// line breaks. Otherwise each line is a message.
function messagesIn(text) {
  if (jsonError(text) === null) return [text.replace(/\s*\n\s*/g, " ")];
  return text.split("\n").filter((line) => line.trim());
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const entered = text.value, messages = messagesIn(entered);
  browsing = 0;
  try {
    while (messages.length) {
      // This may wait for room. Until then the text stays in its field.
      await line.send(messages[0]);
      add("out", messages.shift());
    }
  } catch (error) {
    add("bad", `not sent: ${error.message}`);
  }
  if (text.value === entered) type(messages.join("\n"));
});

function type(message) {
  text.value = message;
  checkText();
}
function checkText() {
  const entered = text.value.trim(), isMeantAsJson = /^[{["]/.test(entered);
  const error = messagesIn(entered).some(jsonError) ? jsonError(entered) : null;
  check.className = isMeantAsJson ? "bad" : "";
  check.textContent = error && (isMeantAsJson ? `Not valid JSON: ${error}` : "Not JSON: sent as plain text");
  keepTheEnd();
}
text.addEventListener("input", checkText);
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
    return;
  }
  const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  // In a text of several lines that was not recalled, the arrow keys move the cursor.
  if (!step || (!browsing && text.value.includes("\n"))) return;
  event.preventDefault();
  browsing = Math.min(Math.max(browsing + step, 0), typed.length);
  type(browsing ? typed.at(-browsing) : "");
});
example.addEventListener("click", () => {
  type(example.textContent);
  text.focus();
});
pretty.addEventListener("change", () => {
  for (const body of log.querySelectorAll("pre")) body.textContent = pretty.checked ? indented(body.line) : body.line;
  try {
    settings?.setItem(PRETTY, pretty.checked);
  } catch {
    // The storage is full: the setting is valid for this page only.
  }
  keepTheEnd();
});
end.addEventListener("click", () => line.close());
addEventListener("online", () => line.retry());
addEventListener("visibilitychange", () => line.retry());
// A page restored from the back/forward cache does not know the state of its session.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
