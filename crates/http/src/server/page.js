// One WebSocket: what comes is shown, what is typed is sent. The cookie that the URL was exchanged for
// lets it in.
const state = document.getElementById("state");
const log = document.getElementById("log");
const text = document.getElementById("text");
const MOST_LINES = 1000;
const lines = [];

function show(line) {
  lines.push(line);
  if (lines.length > MOST_LINES) lines.shift();
  log.textContent = lines.join("\n");
}

const scheme = location.protocol === "https:" ? "wss:" : "ws:";
const socket = new WebSocket(`${scheme}//${location.host}/ws`);
socket.binaryType = "arraybuffer";
socket.onopen = () => { state.textContent = "connected"; };
socket.onclose = (event) => {
  state.textContent = `closed: ${event.code} ${event.reason}`;
};
socket.onmessage = (event) => {
  show(typeof event.data === "string" ? event.data : `(${event.data.byteLength} bytes)`);
};
document.getElementById("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (text.value && socket.readyState === WebSocket.OPEN) socket.send(text.value);
  text.value = "";
});
