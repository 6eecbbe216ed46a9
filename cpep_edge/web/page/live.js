// The page of `cpep-edge live --web`: takes what the server sends, draws it at the screen's pace, and says when it stops.

import { Hand, sized } from "./hand.js";

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const hand = new Hand($("hand"));
const TIMELINE_S = 60;
const CHANGES_SHOWN = 12;
const state = {
  about: null, health: null, decision: null, changes: [], strokes: [], strokesFrom: 0,
  connected: false, paused: false, gain: 1, seconds: 6, heard: 0,
};

// --- the run ---------------------------------------------------------------------------------------------------------

let retry_ms = 250;
function connect() {
  const address = new URL(`live${location.search}`, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { retry_ms = 250; };
  socket.onmessage = ({ data }) => {
    state.connected = true;
    state.heard = performance.now();
    if (data instanceof ArrayBuffer) takeStrokes(data);
    else take(JSON.parse(data));
  };
  socket.onclose = () => {
    state.connected = false;
    showLink();
    setTimeout(connect, retry_ms);
    retry_ms = Math.min(4000, retry_ms * 2);
  };
}

function take(message) {
  if (message.type === "about") takeAbout(message);
  else if (message.type === "health") { state.health = message; showHealth(); }
  else if (message.type === "decision") takeDecision(message);
  showLink();
}

function takeAbout(about) {
  Object.assign(state, { about, changes: [], strokes: [], strokesFrom: 0 });
  $("title").textContent = about.title;
  document.title = `${about.bundle} · cpep-edge live`;
  $("meter").querySelector("b").style.left = `${100 * about.min_vote_share}%`;
  hand.canvas.hidden = about.joints.length === 0;
}

function takeDecision(decision) {
  const first = state.decision === null;
  state.decision = decision;
  state.changes.push(...decision.changes);
  while (state.changes.length && state.changes[0].device_t_s < decision.device_t_s - 10 * TIMELINE_S) state.changes.shift();
  if (state.paused) return;
  if (decision.hand_rad) hand.wanted = decision.hand_rad;
  showDecision(decision);
  if (decision.changes.length || first) showChanges();
}

function takeStrokes(buffer) {
  const n = state.about?.n_channels;
  if (!n || state.paused) return;
  const from = new DataView(buffer).getUint32(0, true);
  const values = new Int8Array(buffer, 4);
  const expected = state.strokesFrom + state.strokes.length;
  if (from < expected) state.strokes = []; // the stream began anew
  else for (let gap = state.strokes.length ? Math.min(from - expected, 2000) : 0; gap > 0; gap -= 1) state.strokes.push(null);
  for (let at = 0; at + 2 * n <= values.length; at += 2 * n) state.strokes.push(values.subarray(at, at + 2 * n));
  const most = 1500;
  if (state.strokes.length > most) state.strokes.splice(0, state.strokes.length - most);
  state.strokesFrom = from + values.length / (2 * n) - state.strokes.length;
}

// --- words -----------------------------------------------------------------------------------------------------------

function isActive(gesture) { return gesture !== "unknown" && gesture !== state.about?.rest_gesture; }

/** "FingerAbductionSeries" as people write it. */
function words(name) { return name.replace(/[_-]+/g, " ").replace(/([a-z])([A-Z])/g, "$1 $2").replace(/^./, (c) => c.toUpperCase()); }

function colour(gesture) {
  if (!isActive(gesture)) return "var(--soft)";
  const number = state.about.gestures.indexOf(gesture);
  return `oklch(var(--hue-light) var(--hue-chroma) ${(40 + (number * 137.5)) % 360})`;
}

function showDecision(decision) {
  const active = isActive(decision.gesture);
  const label = decision.gesture === "unknown" ? "no gesture" : words(decision.gesture);
  if ($("gesture").textContent !== label) $("gesture").textContent = label;
  $("gesture").className = active ? "" : "quiet";
  $("stage").style.setProperty("--tone", active ? colour(decision.gesture) : "var(--soft)");
  $("meter").querySelector("i").style.transform = `scaleX(${decision.at_rest ? 0 : decision.confidence})`;
  $("meter").setAttribute("aria-valuenow", decision.at_rest ? 0 : Math.round(100 * decision.confidence));
  $("window").textContent = decision.at_rest
    ? "muscles at rest, encoder asleep"
    : (decision.window_gesture === decision.gesture ? "" : `this window: ${words(decision.window_gesture)}, `) +
      `${Math.round(100 * decision.confidence)} % of votes` +
      (decision.interpolated ? ", lost samples filled in" : "");
}

function showChanges() {
  const items = state.changes.slice(-CHANGES_SHOWN).reverse().map((change) => {
    const item = document.createElement("li"), time = document.createElement("time");
    time.textContent = clock(change.device_t_s);
    item.style.setProperty("--tone", colour(change.gesture));
    item.append(change.gesture === "unknown" ? "no gesture" : words(change.gesture), time);
    return item;
  });
  $("changes").replaceChildren(...items);
}

function clock(seconds) { return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`; }

function showHealth() {
  const { health } = state, { link } = health;
  put("delay", health.delay_p50_ms === null ? "–" : `${health.delay_p50_ms.toFixed(1)} / ${health.delay_p99_ms.toFixed(1)} ms`);
  put("rate", health.sample_rate_hz === null ? "–" : `${Math.round(health.sample_rate_hz)} Hz`, `${state.about.n_channels} ch`);
  put("lost", `${link.lost_frames}`, `of ${link.frames + link.lost_frames}`, link.lost_frames > 0);
  put("skipped", `${health.skipped_hops}`, `of ${health.n_decisions + health.skipped_hops}`, health.skipped_hops > 0);
  put("saved", health.n_decisions ? `${Math.round((100 * health.rest_hops) / health.n_decisions)} %` : "–", "at rest");
  const failing = health.sinks.filter((sink) => sink.failures > 0 && sink.sent === 0).length;
  const dropped = health.sinks.reduce((sum, sink) => sum + sink.dropped, 0);
  put("sinks", health.sinks.length ? `${health.sinks.length - failing} of ${health.sinks.length}` : "none", dropped ? `${dropped} dropped` : "", failing > 0);
}

function put(id, figure, rest = "", bad = false) {
  const small = document.createElement("small");
  small.textContent = rest ? ` ${rest}` : "";
  $(id).replaceChildren(figure, small);
  $(id).classList.toggle("bad", bad);
}

function showLink() {
  const { health } = state;
  const [link, text] = !state.connected ? ["gone", "connection to cpep-edge lost, trying again"]
    : health?.ended ? ["ended", "the run has ended"]
    : health?.silent ? ["silent", state.decision || health.silent_s > 2 ? `no signal from the band for ${health.silent_s.toFixed(0)} s` : "waiting for the band"]
    : state.paused ? ["held", "held; space lets go"]
    : health ? ["live", "live"] : ["waiting", "connecting"];
  document.body.dataset.link = $("link").dataset.state = link;
  if ($("link").textContent !== text) $("link").textContent = text;
}

// --- pictures --------------------------------------------------------------------------------------------------------

let colours = {};
function readColours() {
  const style = getComputedStyle(root), of = (name) => style.getPropertyValue(name).trim();
  colours = {
    near: of("--skin"), far: of("--skin-far"), edge: of("--skin-edge"), light: "#ffffff1c",
    strip: of("--strip"), line: of("--line"), soft: of("--soft"), text: of("--text"), panel: of("--panel"),
    light_hue: of("--hue-light"), chroma: of("--hue-chroma"),
  };
}

function drawStrips() {
  const { about, strokes, gain } = state;
  const { context, width, height } = sized($("strips"));
  if (!about) return;
  const gutter = 26, n = about.n_channels, row = height / n, plot = width - gutter;
  const shown = Math.round(state.seconds / about.strip_s), pitch = plot / shown;
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  for (let channel = 0; channel < n; channel += 1) {
    const middle = row * (channel + 0.5), half = row * 0.5, unit = (gain * half) / 127;
    context.fillStyle = colours.soft;
    context.fillText(`${channel + 1}`, 0, middle);
    context.fillStyle = colours.line;
    context.fillRect(gutter, middle - 0.5, plot, 1);
    context.fillStyle = colours.strip;
    const first = Math.max(0, strokes.length - shown);
    for (let at = first; at < strokes.length; at += 1) {
      const stroke = strokes[at];
      if (!stroke) continue;
      const low = Math.max(-half, stroke[2 * channel] * unit), high = Math.min(half, stroke[2 * channel + 1] * unit);
      context.fillRect(gutter + plot - (strokes.length - at) * pitch, middle - high, Math.max(pitch, 0.8), Math.max(high - low, 1));
    }
  }
}

/** As much of a label as there is room for; nothing where that would be a letter or two. */
function fitting(context, label, width) {
  let n = label.length;
  while (n > 3 && context.measureText(label.slice(0, n) + (n < label.length ? "…" : "")).width > width) n -= 1;
  return n <= 3 ? "" : label.slice(0, n).trimEnd() + (n < label.length ? "…" : "");
}

function drawTimeline() {
  const { context, width, height } = sized($("timeline"));
  if (!state.decision) return;
  const now = state.decision.device_t_s, x = (seconds) => width - ((now - seconds) / TIMELINE_S) * width;
  context.fillStyle = colours.line;
  context.fillRect(0, height - 2, width, 2);
  context.font = "600 12px system-ui, sans-serif";
  context.textBaseline = "middle";
  state.changes.forEach((change, index) => {
    const next = state.changes[index + 1], from = Math.max(0, x(change.device_t_s)), to = next ? x(next.device_t_s) : width;
    if (to <= 0 || !isActive(change.gesture)) return;
    const number = state.about.gestures.indexOf(change.gesture);
    context.fillStyle = `oklch(${colours.light_hue} ${colours.chroma} ${(40 + number * 137.5) % 360})`;
    context.beginPath();
    context.roundRect(from, 0, Math.max(3, to - from - 1), height - 6, 6);
    context.fill();
    context.fillStyle = colours.panel;
    context.fillText(fitting(context, words(change.gesture), to - from - 16), from + 8, (height - 6) / 2);
  });
}

let last = 0;
function frame(now) {
  if (!state.paused) {
    drawStrips();
    drawTimeline();
  }
  hand.draw(Math.min(0.2, (now - last) / 1000), colours);
  last = now;
  requestAnimationFrame(frame);
}

// --- hands on --------------------------------------------------------------------------------------------------------

function setTheme(theme) {
  root.dataset.theme = theme;
  readColours();
}

function pause() {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", state.paused);
  $("pause").textContent = state.paused ? "Go on" : "Pause";
  showLink();
}

function scale(gain, seconds) {
  state.gain = Math.max(0.25, Math.min(8, state.gain * gain));
  state.seconds = Math.max(1.5, Math.min(12, state.seconds * seconds));
  $("gain").textContent = state.gain;
  $("span").textContent = state.seconds;
}

const KEYS = {
  " ": pause, t: () => $("theme").click(), "?": () => $("help").showModal(), 0: () => hand.home(),
  "+": () => scale(2, 1), "=": () => scale(2, 1), "-": () => scale(0.5, 1), "]": () => scale(1, 2), "[": () => scale(1, 0.5),
  ArrowLeft: () => hand.rotate(-0.15, 0), ArrowRight: () => hand.rotate(0.15, 0),
  ArrowUp: () => hand.rotate(0, -0.15), ArrowDown: () => hand.rotate(0, 0.15),
};
document.addEventListener("keydown", (event) => {
  const act = KEYS[event.key];
  const pressing = event.key === " " && event.target instanceof HTMLButtonElement;
  if (!act || event.ctrlKey || event.metaKey || event.altKey || pressing || $("help").open) return;
  event.preventDefault();
  act();
});
$("pause").addEventListener("click", pause);
$("keys").addEventListener("click", () => $("help").showModal());
$("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
setTheme(dark.matches ? "dark" : "light");
connect();
requestAnimationFrame(frame);
