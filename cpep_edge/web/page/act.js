// What can be done from the page: each form asks the server for one action and shows what it answers, refusals in words.

import { Hand, sized } from "./hand.js";

const $ = (id) => document.getElementById(id);

export class Actions {
  constructor(page) {
    Object.assign(this, { page, token: null, told: "", shape: "" });
    this.hand = new Hand($("shape"), page.still, () => requestAnimationFrame(() => this.hand.draw(0.03, page.colours())));
    $("act").addEventListener("click", () => this.open());
    $("stop").addEventListener("click", () => this.ask("stop", {}));
    for (const form of document.querySelectorAll("form[data-act]")) {
      form.addEventListener("submit", (event) => { event.preventDefault(); this.submit(form); });
    }
    this.gates = this.form("gates");
    this.gates.addEventListener("input", () => this.preview());
    $("look").addEventListener("click", () => this.look());
    $("beep").checked = Boolean(page.remembered().beep);
    $("beep").addEventListener("change", () => { page.remember({ beep: $("beep").checked }); this.beep(); });
  }

  about(about) {
    this.token = about.act_token;
    $("act").hidden = !this.token;
    const gates = { min_confidence: about.min_vote_share, debounce_ms: about.evidence_ms, refractory_ms: about.release_ms };
    for (const [name, value] of Object.entries(gates)) {
      const slider = this.gates.elements[name];
      slider.value = value;
      slider.dataset.was = slider.value; // rounded to what it can show: what is not moved is not asked for
    }
    this.rest = about.rest_gesture;
    $("bundle").href = this.link("bundle.zip");
    const typing = document.activeElement; // drawn anew, the list would lose what is being typed
    if ($("known").contains(typing) && typing.value !== typing.defaultValue) return;
    $("known").replaceChildren(...about.gestures.map((gesture) => {
      const item = document.createElement("li"), name = document.createElement("input");
      Object.assign(name, { defaultValue: gesture.name, maxLength: 100, title: `label: ${gesture.label}` });
      name.setAttribute("aria-label", `How ${gesture.name} reads`);
      name.addEventListener("change", () => {
        name.defaultValue = name.value;
        this.ask("rename", { gesture: gesture.label, called: name.value.trim() });
      });
      item.append(name, this.button("Forget", `Forget ${gesture.name}`, () => {
        if (confirm(`Forget ${gesture.name}? The bundle loses it.`)) this.ask("forget", { gesture: gesture.label });
      }));
      return item;
    }));
  }

  button(text, label, does) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: text });
    button.setAttribute("aria-label", label);
    button.addEventListener("click", does);
    return button;
  }

  open() {
    if (!this.token) return;
    $("refused").hidden = true;
    $("actions").showModal();
    this.preview();
  }

  /** Which devices there are: every port is asked, which takes some seconds. */
  async look() {
    const shown = (text) => { $("devices").replaceChildren(Object.assign(document.createElement("li"), { textContent: text })); };
    $("look").disabled = true;
    shown("asking every port…");
    const found = await this.ask("devices", {});
    $("look").disabled = false;
    if (!found?.devices.length) { shown(found ? "no serial device is connected" : ""); return; }
    $("devices").replaceChildren(...found.devices.map((one) => {
      const item = document.createElement("li");
      item.append(one.band ? `${one.band} on ${one.port}: ${one.n_channels} channels at ${one.sample_rate_hz} Hz` : `${one.port}: ${one.problem}`);
      if (one.band) item.append(this.button("Connect", `Connect to ${one.band} on ${one.port}`, () => this.connect(one)));
      return item;
    }));
  }

  async connect({ port, device }) {
    if (await this.ask("connect", { port, device })) $("actions").close();
  }

  /** A short tone, for those who look at their hand. */
  beep() {
    if (!$("beep").checked) return;
    this.audio ??= new AudioContext();
    const tone = this.audio.createOscillator(), volume = this.audio.createGain(), now = this.audio.currentTime;
    tone.frequency.value = 880;
    volume.gain.setValueAtTime(0.2, now);
    volume.gain.exponentialRampToValueAtTime(0.001, now + 0.2);
    tone.connect(volume).connect(this.audio.destination);
    tone.start(now);
    tone.stop(now + 0.2);
  }

  link(name) {
    const token = new URLSearchParams(location.search).get("token");
    return `download/${name}?act=${this.token}${token ? `&token=${token}` : ""}`;
  }

  /** What is being done, for everybody who looks. */
  show({ doing, told, recordings, port, axes }) {
    $("doing").hidden = !doing;
    $("device").hidden = port === null;
    $("connected").textContent = port ? `Connected on ${port}; another may be chosen.` : "No device is connected.";
    const cue = doing?.now ? `${doing.what} ${doing.gesture} ${doing.n_done}` : "";
    if (cue && cue !== this.cue) this.beep();
    this.cue = cue;
    if (doing) {
      const { game } = doing;
      $("held").hidden = !game;
      $("held").value = game?.held ?? 0;
      $("arena").hidden = !game?.target;
      if (game?.target) this.drawArena(game, axes);
      const left = doing.left_s ? String(Math.ceil(doing.left_s)) : "";
      for (const [id, text] of [["said", doing.said], ["wanted", doing.gesture], ["left", left],
        ["steps", doing.n_steps ? `${doing.n_done} of ${doing.n_steps} done${game ? `, ${game.n_hits} hit` : ""}` : ""]]) {
        if ($(id).textContent !== text) $(id).textContent = text;
      }
      $("shape").hidden = !doing.hand_rad;
      this.hand.want(doing.hand_rad);
    }
    const plane = axes.length > 1;
    this.form("test").elements.game.options[1].disabled = !plane;
    $("axes").textContent = plane
      ? `The point goes right and left by ${axes[0].join(" and ")}, up and down by ${axes[1].join(" and ")}.`
      : "Rings need two pairs of opposites, such as wrist flexion and extension, radial and ulnar deviation.";
    if (told !== this.told) {
      this.told = told;
      $("told").textContent = told;
      $("told").hidden = !told;
    }
    const names = recordings.join();
    if (names === this.names) return;
    this.names = names;
    $("recordings").replaceChildren(...recordings.map((name) => {
      const item = document.createElement("li"), link = document.createElement("a");
      Object.assign(link, { href: this.link(name), download: name, textContent: name });
      item.append(link);
      return item;
    }));
  }

  form(act) { return document.querySelector(`form[data-act="${act}"]`); }

  /** The plane from -1 to 1, seen from above. */
  drawArena({ cursor, target }, axes) {
    const { context, width, height } = sized($("arena")), half = Math.min(width, height) / 2, colours = this.page.colours();
    const at = ([x, y]) => [width / 2 + x * half, height / 2 - y * half];
    const disc = (point, radius) => { context.beginPath(); context.arc(...at(point), radius * half, 0, 2 * Math.PI); };
    context.strokeStyle = colours.line;
    context.strokeRect(width / 2 - half + 0.5, height / 2 - half + 0.5, 2 * half - 1, 2 * half - 1);
    context.strokeStyle = context.fillStyle = colours.strip;
    context.lineWidth = 3;
    disc([target.x, target.y], target.radius);
    context.stroke();
    context.globalAlpha = 0.2;
    context.fill();
    context.globalAlpha = 1;
    context.fillStyle = colours.text;
    disc(cursor, 0.04);
    context.fill();
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = colours.soft;
    const [[right, leftwards], [up, down]] = axes, middle = width / 2, low = height / 2;
    for (const [text, x, y, align] of [[`${right} →`, width - 4, low - 6, "right"], [`← ${leftwards}`, 4, low - 6, "left"],
      [`↑ ${up}`, middle, 12, "center"], [`↓ ${down}`, middle, height - 6, "center"]]) {
      context.textAlign = align;
      context.fillText(text, x, y);
    }
  }

  values(form) {
    const found = {};
    for (const input of form.querySelectorAll("input[name], select[name]")) {
      if (input.value === input.dataset.was) continue;
      if (input.name === "gestures") found.gestures = input.value.split(",").map((name) => name.trim()).filter(Boolean);
      else found[input.name] = ["text", "select-one"].includes(input.type) ? input.value.trim() : Number(input.value);
    }
    return found;
  }

  async submit(form) {
    const asked = this.values(form);
    if (form === this.gates) asked.apply = true;
    if (await this.ask(form.dataset.act, asked)) $("actions").close();
  }

  /** What other thresholds would have decided: asked for once the slider rests. */
  preview() {
    for (const input of this.gates.querySelectorAll("input")) input.parentElement.querySelector("output").textContent = input.value;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(async () => {
      const found = await this.ask("gates", this.values(this.gates));
      if (found) this.drawEffect(found);
    }, 200);
  }

  drawEffect({ changes, seconds }) {
    const { context, width, height } = sized($("effect"));
    const active = changes.filter((change) => this.page.isActive(change.gesture));
    $("effect-said").textContent = seconds
      ? `In the last ${Math.round(seconds)} s these would have decided on ${active.length} gestures:`
      : "What these would have decided shows once there was a gesture.";
    changes.forEach((change, number) => {
      if (!this.page.isActive(change.gesture)) return;
      const until = changes[number + 1]?.ago_s ?? 0, x = (ago) => width * (1 - ago / Math.max(1, seconds));
      context.fillStyle = this.page.colour(change.gesture);
      context.fillRect(x(change.ago_s), 0, Math.max(2, x(until) - x(change.ago_s) - 1), height);
    });
  }

  /** The answer; null where it was refused, which is told. */
  async ask(name, asked) {
    const headers = { "content-type": "application/json", "x-cpep-act": this.token };
    let answer;
    try {
      const response = await fetch(`act/${name}${location.search}`, { method: "POST", headers, body: JSON.stringify(asked) });
      answer = await response.json();
    } catch {
      answer = { error: "cpep-edge cannot be reached: is it still running?" };
    }
    const place = $("actions").open ? $("refused") : $("told");
    if (answer.error || place === $("refused")) {
      place.hidden = !answer.error;
      place.textContent = answer.error ?? "";
    }
    return answer.error ? null : answer;
  }
}
