// The page of `cpep-edge live --web`: takes what the server sends, draws what changed, and says when it stops.

import { Actions } from "./act.js";
import { Hand, sized } from "./hand.js";

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const still = matchMedia("(prefers-reduced-motion: reduce)");
const hand = new Hand($("hand"), still, () => draw("hand"));
const actions = new Actions({ still, colours: () => colours, colour: (label) => paint(label), nameOf, isActive, remember, remembered });
const PAST_S = 60;
const PAST_HOP_S = 0.5; // a minute moves by a few pixels in it
const FRAME_HOP_MS = 67; // between two turns of what moves: a turn costs more than what changes in it
const CHANGES_SHOWN = 12;
const KINDS = { trained: "Trained on other people", taught: "Taught by you", "zero-shot": "Zero-shot, by pose alone" };
const state = {
  about: null, gestures: new Map(), health: null, decision: null, changes: [], delays: [], strokes: [], strokesFrom: 0,
  connected: false, paused: false, gain: 1, seconds: 6,
};

// --- the run ---------------------------------------------------------------------------------------------------------

let retry_ms = 250;
function connect() {
  if (!("WebSocket" in window)) {
    $("link").textContent = "this browser has no WebSocket: open the page in another one";
    $("link").dataset.state = "bad";
    return;
  }
  const address = new URL(`live${location.search}`, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { retry_ms = 250; };
  socket.onmessage = ({ data }) => {
    state.connected = true;
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
  else if (message.type === "state") { state.lost = message.port === "" ? message.lost || "no device yet" : ""; actions.show(message); }
  showLink();
}

function takeAbout(about) {
  Object.assign(state, { about, decision: null, changes: [], delays: [], strokes: [], strokesFrom: 0 });
  state.gestures = new Map(about.gestures.map((gesture, number) => [gesture.label, { ...gesture, number }]));
  $("title").textContent = about.title;
  document.title = `${about.bundle} · cpep-edge live`;
  $("meter").querySelector("b").style.left = `${100 * about.min_vote_share}%`;
  root.style.setProperty("--channels", about.n_channels);
  $("calibrated").hidden = false;
  $("calibrated").dataset.state = about.calibrated === "not calibrated" ? "warn" : "good";
  $("calibrated").textContent = about.calibrated;
  $("scaled").textContent = `filtered, ${about.calibrated}`;
  buildShares();
  actions.about(about);
  draw("strips", "past");
}

function takeDecision(decision) {
  const first = state.decision === null;
  state.decision = decision;
  state.changes.push(...decision.changes);
  state.delays.push([decision.run_s, decision.delay_ms]);
  const oldest = decision.run_s - PAST_S;
  while (state.changes.length > CHANGES_SHOWN && state.changes[1].run_s < oldest) state.changes.shift();
  while (state.delays[0][0] < oldest) state.delays.shift();
  if (state.paused) return;
  hand.want(decision.hand_rad);
  draw("decision");
  if (decision.changes.length || first) draw("changes");
  if (decision.changes.length || !(Math.abs(decision.run_s - shownPast_s) < PAST_HOP_S)) draw("past");
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
  draw("strips");
}

// --- words -----------------------------------------------------------------------------------------------------------

function isActive(label) { return label !== "unknown" && label !== state.about?.rest_gesture; }
function nameOf(label) { return state.gestures.get(label)?.name ?? "no gesture"; }
function hue(label) { return (40 + (state.gestures.get(label)?.number ?? 0) * 137.5) % 360; }

function colour(label) {
  return isActive(label) ? `oklch(var(--hue-light) var(--hue-chroma) ${hue(label)})` : "var(--soft)";
}

/** The same for a canvas, which knows no variables. */
function paint(label) { return `oklch(${colours.light_hue} ${colours.chroma} ${hue(label)})`; }

function setText(element, text) { if (element.textContent !== text) element.textContent = text; }

function showDecision(decision) {
  $("stage").classList.toggle("bare", decision.hand_rad === null);
  showShares(decision);
  const active = isActive(decision.gesture), share = decision.at_rest ? 0 : decision.confidence;
  setText($("gesture"), nameOf(decision.gesture));
  $("gesture").className = active ? "" : "quiet";
  $("stage").style.setProperty("--tone", colour(decision.gesture));
  $("meter").querySelector("i").style.transform = `scaleX(${share})`;
  $("meter").setAttribute("aria-valuenow", Math.round(100 * share));
  const percent = `${Math.round(100 * share)} %`;
  setText($("window"), decision.at_rest
    ? "muscles at rest, encoder asleep"
    : (decision.window_gesture === "unknown" ? `this window: too unsure, ${percent} for its best guess`
      : `this window: ${nameOf(decision.window_gesture)}, ${percent}`) +
      (decision.interpolated ? "; lost samples filled in" : ""));
}

let bars = [];
function buildShares() {
  bars = [];
  const parts = [];
  const kinds = Object.keys(KINDS).filter((kind) => state.about.gestures.some((gesture) => gesture.kind === kind));
  for (const kind of kinds) {
    const head = document.createElement("h3"), list = document.createElement("ul");
    head.textContent = KINDS[kind];
    if (kinds.length > 1 || kind !== "trained") parts.push(head);
    state.about.gestures.forEach((gesture, number) => {
      if (gesture.kind !== kind) return;
      const item = document.createElement("li"), name = document.createElement("span");
      const bar = document.createElement("span"), fill = document.createElement("i"), figure = document.createElement("output");
      name.className = "name";
      name.textContent = gesture.name;
      bar.className = "bar";
      item.style.setProperty("--tone", colour(gesture.label));
      bar.append(fill);
      item.append(name, bar, figure);
      list.append(item);
      bars[number] = { item, fill, figure, shown: -1, label: gesture.label };
    });
    parts.push(list);
  }
  $("shares").replaceChildren(...parts);
}

function showShares(decision) {
  bars.forEach((bar, number) => {
    const percent = Math.round(100 * (decision.shares[number] ?? 0));
    bar.item.classList.toggle("decided", bar.label === decision.gesture);
    if (percent === bar.shown) return;
    bar.shown = percent;
    bar.fill.style.transform = `scaleX(${percent / 100})`;
    bar.figure.textContent = percent ? `${percent} %` : "";
  });
}

function showChanges() {
  const items = state.changes.slice(-CHANGES_SHOWN).reverse().map((change) => {
    const item = document.createElement("li"), time = document.createElement("time");
    time.textContent = clock(change.run_s);
    item.style.setProperty("--tone", colour(change.gesture));
    item.append(nameOf(change.gesture), time);
    return item;
  });
  $("changes").replaceChildren(...items);
}

function clock(seconds) { return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`; }

function duration(seconds) {
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

function showHealth() {
  const { health, about } = state, { link } = health;
  put("time", duration(health.run_s));
  put("delay", health.delay_p50_ms === null ? "–" : `${health.delay_p50_ms.toFixed(1)} / ${health.delay_p99_ms.toFixed(1)} ms`);
  put("rate", health.sample_rate_hz === null ? "–" : `${Math.round(health.sample_rate_hz)} Hz`, `${about.n_channels} ch`);
  put("lost", `${link.lost_frames}`, `of ${link.frames + link.lost_frames}`, link.lost_frames > 0);
  put("skipped", `${health.skipped_hops}`, `of ${health.n_decisions + health.skipped_hops}`, health.skipped_hops > 0);
  put("saved", health.n_decisions ? `${Math.round((100 * health.rest_hops) / health.n_decisions)} %` : "–", "at rest");
  const failing = health.sinks.filter((sink) => sink.failures > 0 && sink.sent === 0).length;
  const dropped = health.sinks.reduce((sum, sink) => sum + sink.dropped, 0);
  put("sinks", health.sinks.length ? `${health.sinks.length - failing} of ${health.sinks.length}` : "none", dropped ? `${dropped} dropped` : "", failing > 0);
  $("battery").hidden = health.battery_percent === null;
  $("battery").dataset.state = health.battery_percent < 15 ? "bad" : "good";
  setText($("battery"), `battery ${health.battery_percent} %`);
  showElectrodes(health.electrodes);
}

function showElectrodes(electrodes) {
  const faulty = electrodes.flatMap(([, fault], number) => (fault ? [`${number + 1} ${fault}`] : []));
  const rms = electrodes.map(([value]) => value).sort((a, b) => a - b);
  $("electrodes").classList.toggle("bad", faulty.length > 0);
  setText($("electrodes"), electrodes.length === 0 ? "listening to the electrodes"
    : faulty.length ? `electrodes to check: ${faulty.join(", ")}`
    : `all ${electrodes.length} electrodes carry signal, ${Math.round(rms[0])} to ${Math.round(rms.at(-1))} ${state.about.unit}`);
  const faults = faulty.join();
  if (faults !== shownFaults) { shownFaults = faults; shownStrips.key = ""; draw("strips"); }
}
let shownFaults = "";

function put(id, figure, rest = "", bad = false) {
  const element = $(id), text = rest ? ` ${rest}` : "";
  element.classList.toggle("bad", bad);
  if (element.textContent === figure + text) return;
  const small = document.createElement("small");
  small.textContent = text;
  element.replaceChildren(figure, small);
}

function showLink() {
  const { health } = state;
  const [link, text] = !state.connected ? ["gone", "connection to cpep-edge lost, trying again"]
    : health?.ended ? ["ended", "the run has ended"]
    : state.lost ? ["silent", `${state.lost}; choose a device with Do`]
    : health?.silent ? ["silent", state.decision || health.silent_s > 2 ? `no signal from the band for ${health.silent_s.toFixed(0)} s` : "waiting for the band"]
    : state.paused ? ["held", "held; space lets go"]
    : health ? ["live", "live"] : ["waiting", "connecting"];
  document.body.dataset.link = $("link").dataset.state = link;
  setText($("link"), text);
}

// --- pictures --------------------------------------------------------------------------------------------------------

let colours = {};
function readColours() {
  const style = getComputedStyle(root), of = (name) => style.getPropertyValue(name).trim();
  colours = {
    near: of("--skin"), far: of("--skin-far"), edge: of("--skin-edge"), light: "#ffffff1c",
    strip: of("--strip"), line: of("--line"), soft: of("--soft"), text: of("--text"), panel: of("--panel"), bad: of("--bad"),
    light_hue: of("--hue-light"), chroma: of("--hue-chroma"),
  };
}

/** Strips scroll by whole pixels of the screen: what is drawn is moved to the left, and only what is new is drawn. */
const shownStrips = { key: "", head: 0, from: 0 };
function drawStrips() {
  const { about, strokes, gain } = state, canvas = $("strips");
  const ratio = window.devicePixelRatio || 1, width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (!about || !width) return;
  const n = about.n_channels, left = Math.round(30 * ratio), plot = width - left;
  const perStroke = plot / Math.round(state.seconds / about.strip_s), end = state.strokesFrom + strokes.length;
  const head = Math.floor(end * perStroke);
  const key = [width, height, gain, state.seconds, root.dataset.theme, n].join();
  let fresh = head - shownStrips.head;
  const context = canvas.getContext("2d", { alpha: false });
  if (key !== shownStrips.key || fresh < 0 || fresh > plot) {
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    fresh = plot;
    context.fillStyle = colours.panel;
    context.fillRect(0, 0, width, height);
    context.font = `${11 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    for (let channel = 0; channel < n; channel += 1) {
      const electrode = about.electrode_of_strip[channel], bad = Boolean(state.health?.electrodes[electrode]?.[1]);
      context.fillStyle = bad ? colours.bad : colours.soft;
      context.fillText(`${electrode + 1}${bad ? " !" : ""}`, 0, (height / n) * (channel + 0.5));
    }
  } else if (fresh) {
    context.drawImage(canvas, left + fresh, 0, plot - fresh, height, left, 0, plot - fresh, height);
  }
  Object.assign(shownStrips, { key, head });
  if (!fresh) return;
  const x0 = width - fresh, row = height / n, half = row / 2, unit = (gain * half) / 127;
  context.fillStyle = colours.panel;
  context.fillRect(x0, 0, fresh, height);
  context.fillStyle = colours.line;
  for (let channel = 0; channel < n; channel += 1) context.fillRect(x0, Math.round(row * (channel + 0.5)), fresh, 1);
  context.fillStyle = colours.strip;
  context.beginPath();
  for (let x = 0; x < fresh; x += 1) {
    const first = Math.floor((head - fresh + x) / perStroke) - state.strokesFrom;
    const last = Math.max(first + 1, Math.floor((head - fresh + x + 1) / perStroke) - state.strokesFrom);
    for (let channel = 0; channel < n; channel += 1) {
      let low = 127, high = -127;
      for (let at = Math.max(0, first); at < last && at < strokes.length; at += 1) {
        if (!strokes[at]) continue;
        low = Math.min(low, strokes[at][2 * channel]);
        high = Math.max(high, strokes[at][2 * channel + 1]);
      }
      if (low > high) continue;
      const top = Math.min(half, high * unit), bottom = Math.max(-half, low * unit);
      context.rect(x0 + x, row * (channel + 0.5) - top, 1, Math.max(top - bottom, 1));
    }
  }
  context.fill();
}

/** As much of a label as there is room for; nothing where that would be a letter or two. */
function fitting(context, label, width) {
  let n = label.length;
  while (n > 3 && context.measureText(label.slice(0, n) + (n < label.length ? "…" : "")).width > width) n -= 1;
  return n <= 3 ? "" : label.slice(0, n).trimEnd() + (n < label.length ? "…" : "");
}

let shownPast_s = NaN;
function drawPast() {
  if (!state.decision) return;
  const now = shownPast_s = state.decision.run_s, { context, width, height } = sized($("timeline"));
  const x = (seconds) => width - ((now - seconds) / PAST_S) * width;
  context.fillStyle = colours.line;
  context.fillRect(0, height - 2, width, 2);
  context.font = "600 12px system-ui, sans-serif";
  context.textBaseline = "middle";
  state.changes.forEach((change, index) => {
    const next = state.changes[index + 1], from = Math.max(0, x(change.run_s)), to = next ? x(next.run_s) : width;
    if (to <= 0 || !isActive(change.gesture)) return;
    context.fillStyle = paint(change.gesture);
    context.beginPath();
    context.roundRect(from, 0, Math.max(3, to - from - 1), height - 6, 6);
    context.fill();
    context.fillStyle = colours.panel;
    context.fillText(fitting(context, nameOf(change.gesture), to - from - 16), from + 8, (height - 6) / 2);
  });
  drawDelays(x);
}

function drawDelays(x) {
  const { context, width, height } = sized($("curve"));
  const most = Math.max(10, ...state.delays.map(([, ms]) => ms)), top = 2 ** Math.ceil(Math.log2(most / 10)) * 10;
  setText($("delays"), `0 to ${top} ms`);
  context.fillStyle = colours.line;
  context.fillRect(0, height - 1, width, 1);
  context.strokeStyle = colours.strip;
  context.lineWidth = 1.5;
  context.beginPath();
  let before = null;
  for (const [seconds, ms] of state.delays) {
    const y = height - 1 - (ms / top) * (height - 3);
    if (before === null || seconds - before > 2) context.moveTo(x(seconds), y);
    else context.lineTo(x(seconds), y);
    before = seconds;
  }
  context.stroke();
}

const waiting = new Set();
let shown_ms = 0, handShown_ms = 0, turn = 0;
/** Show some of it at the next turn, a hand that somebody turns at once; nothing is drawn while nothing changes. */
function draw(...what) {
  if (waiting.size === 0 || hand.stale) {
    clearTimeout(turn);
    turn = setTimeout(() => requestAnimationFrame(frame), hand.stale ? 0 : Math.max(0, shown_ms + FRAME_HOP_MS - performance.now()));
  }
  what.forEach((one) => waiting.add(one));
}

function frame(now) {
  const due = [...waiting];
  waiting.clear();
  shown_ms = performance.now();
  if (due.includes("decision") && state.decision && !state.paused) showDecision(state.decision);
  if (due.includes("changes") && !state.paused) showChanges();
  if (due.includes("strips") && !state.paused) drawStrips();
  if (due.includes("past") && !state.paused) drawPast();
  if (due.includes("hand")) drawHand(now);
}

function drawHand(now) {
  const seconds = Math.min(0.2, Math.max(0.001, (now - handShown_ms) / 1000));
  handShown_ms = now;
  hand.draw(seconds, colours);
}

// --- hands on --------------------------------------------------------------------------------------------------------

/** What somebody chose stays chosen in this browser; one that keeps nothing does without. */
function remember(what) {
  try { localStorage.setItem("cpep-edge", JSON.stringify({ ...remembered(), ...what })); } catch { /* private window */ }
}
function remembered() {
  try { return JSON.parse(localStorage.getItem("cpep-edge")) ?? {}; } catch { return {}; }
}

function setTheme(theme) {
  root.dataset.theme = theme;
  readColours();
  hand.stale = true;
  draw("strips", "past", "hand");
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
  draw("strips");
}

function rescale(gain, seconds) {
  scale(gain, seconds);
  remember({ gain: state.gain, seconds: state.seconds });
}

const KEYS = {
  a: () => actions.open(), " ": pause, t: () => $("theme").click(), "?": () => $("help").showModal(),
  "+": () => rescale(2, 1), "=": () => rescale(2, 1), "-": () => rescale(0.5, 1),
  "]": () => rescale(1, 2), "[": () => rescale(1, 0.5),
};
const KEYS_ON = {
  hand: {
    0: () => hand.home(), ArrowLeft: () => hand.rotate(-0.15, 0), ArrowRight: () => hand.rotate(0.15, 0),
    ArrowUp: () => hand.rotate(0, -0.15), ArrowDown: () => hand.rotate(0, 0.15),
  },
  strips: {
    ArrowLeft: () => rescale(1, 0.5), ArrowRight: () => rescale(1, 2), ArrowUp: () => rescale(2, 1), ArrowDown: () => rescale(0.5, 1),
  },
};
document.addEventListener("keydown", (event) => {
  const act = KEYS_ON[event.target.id]?.[event.key] ?? KEYS[event.key];
  const typing = event.target.matches("input, select, textarea") || (event.key === " " && event.target.matches("button, summary"));
  if (!act || event.ctrlKey || event.metaKey || event.altKey || typing || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  act();
});
$("pause").addEventListener("click", pause);
$("keys").addEventListener("click", () => $("help").showModal());
$("theme").addEventListener("click", () => {
  setTheme(root.dataset.theme === "dark" ? "light" : "dark");
  remember({ theme: root.dataset.theme });
});
const dark = matchMedia("(prefers-color-scheme: dark)");
const usualTheme = () => remembered().theme ?? (dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(usualTheme()));
window.addEventListener("beforeprint", () => { setTheme("light"); drawStrips(); drawPast(); hand.draw(0, colours); });
window.addEventListener("afterprint", () => setTheme(usualTheme()));
new ResizeObserver(() => { hand.stale = true; draw("strips", "past", "hand"); }).observe(document.body);
setTheme(usualTheme() === "dark" ? "dark" : "light");
scale((Number(remembered().gain) || 1), (Number(remembered().seconds) || 6) / 6);
connect();
