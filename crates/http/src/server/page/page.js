// The page: what is typed goes to the program, what comes of it is shown, always as text. The log is
// kept where the line keeps its position, so that a page that is loaded again lacks nothing.
import { connect } from "./tieline.js";

const MOST_LINES = 1000, MOST_CHARACTERS = 2000, MOST_DEPTH = 40;
const ARROWS = { in: "←", out: "→", note: "·", bad: "!" };
const [state, scroll, log, form, text, pretty, end] =
  ["state", "scroll", "log", "form", "text", "pretty", "end"].map((id) => document.getElementById(id));
const storage = (() => {
  try {
    return sessionStorage;
  } catch {
    return null;  // it may be forbidden; then a reload begins anew
  }
})();

const typed = [];  // the last lines, for the arrow keys
let lines = 0, browsing = 0, isAtEnd = true, isMoving = false;

const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

function cut(message) {
  if (typeof message !== "string") {
    const head = Array.from(message.subarray(0, 32), (byte) => byte.toString(16).padStart(2, "0"));
    return `${head.join(" ")}${message.length > 32 ? " …" : ""} (${message.length} bytes)`;
  }
  if (message.length <= MOST_CHARACTERS) return message;
  return `${message.slice(0, MOST_CHARACTERS)}… (${message.length} characters)`;
}

// As it came but for its white space: parsed and written anew, large numbers would be others.
function indented(line) {
  try {
    JSON.parse(line);
  } catch {
    return line;  // no JSON, or cut
  }
  let text = "", depth = 0;
  const broken = (by) => `\n${"  ".repeat(Math.min(depth += by, MOST_DEPTH))}`;
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
  if (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
  keepTheEnd();
  if (kind === "out" && typed.push(line) > MOST_LINES) typed.shift();
}

// Who looks at the end goes on to look at it; who has scrolled up is left in peace.
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

// Each line has a place of its own in the storage, and takes that of the one a thousand before it. Pages of
// other servers below the same host share the storage.
const place = (number) => `log.${location.pathname}.${number % MOST_LINES}`;
function add(kind, message) {
  const at = Date.now(), line = cut(message);
  show(kind, at, line);
  try {
    storage?.setItem(place(lines), `${lines++} ${kind} ${at} ${line}`);
  } catch {
    // no room: it is shown all the same
  }
}

function restore() {
  const kept = [];
  for (let number = 0; number < MOST_LINES; number++) {
    const stored = /^(\d+) (\w+) (\d+) ([^]*)$/.exec(storage?.getItem(place(number)) ?? "");
    if (stored) kept.push(stored.slice(1));
  }
  kept.sort(([one], [other]) => one - other);
  for (const [number, kind, at, line] of kept) {
    lines = Number(number) + 1;
    show(kind, Number(at), line);
  }
}

function tell(name, words) {
  state.className = name;
  state.textContent = words;
  document.title = name === "connected" ? "tieline" : `tieline: ${name}`;
}

restore();
const line = connect("ws", { storage });
line.onmessage = (message) => add("in", message);
line.onreset = ({ why, unknown, unsent }) => {
  const lost = `${unsent.length} of what was sent did not arrive, of ${unknown.length} it is not known`;
  add("bad", `the session was lost (${why}): ${lost}. Another one has begun, with another process`);
};
line.onclose = ({ why, unknown, unsent }) => {
  const lost = unknown.length + unsent.length;
  add(why ? "bad" : "note", `ended${why ? `: ${why}` : ""}${lost ? `; ${lost} messages perhaps not delivered` : ""}`);
};
line.onstate = async ({ name, since, why }) => {
  for (const it of [text, end, form.lastElementChild]) it.disabled = name === "ended";
  if (name === "connected") tell(name, "connected");
  if (name === "ended") tell(name, `ended${why ? `: ${why}` : ""}. Reload to begin anew`);
  if (name !== "away") return;
  tell(name, `away since ${clock(since)}; trying again`);
  // A browser does not say why a WebSocket failed, so it is asked in another way.
  const answer = await fetch("./", { method: "HEAD" }).catch(() => null);
  if (answer?.status === 401 && line.state.name === "away") {
    tell(name, "not let in any more: open the new URL that tieline serve has printed, in this tab");
  }
};

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const message = text.value;
  if (!message) return;
  browsing = 0;
  try {
    // It may have to wait for room; until then it stands where it was typed.
    await line.send(message);
    add("out", message);
    if (text.value === message) text.value = "";
  } catch (error) {
    add("bad", `not sent: ${error.message}`);
  }
});
text.addEventListener("keydown", (event) => {
  const step = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  browsing = Math.min(Math.max(browsing + step, 0), typed.length);
  text.value = browsing ? typed.at(-browsing) : "";
});
pretty.addEventListener("change", () => {
  for (const body of log.querySelectorAll("pre")) body.textContent = pretty.checked ? indented(body.line) : body.line;
  keepTheEnd();
});
end.addEventListener("click", () => line.close());
addEventListener("online", () => line.retry());
addEventListener("visibilitychange", () => line.retry());
// A page that comes back out of the browser's cache does not know what has become of its session.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
