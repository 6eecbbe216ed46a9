// A hand of twenty joints and a wrist, drawn from their angles: forward kinematics, a turn, perspective, round strokes.
//
// Angles are those of emg2pose, in radians: thumb CMC flexion, CMC abduction, MCP flexion, IP flexion, then of index,
// middle, ring and little finger MCP abduction (towards the thumb), MCP flexion, PIP flexion, DIP flexion; where the
// wrist is known, its flexion, ulnar deviation and pronation.
// Axes: x to the thumb, y along the middle finger, z out of the palm towards the eye; a right hand, in centimetres.

const FINGERS = [ // base of the finger, its own splay, lengths of its bones, radii at their ends
  { base: [2.5, 8.7, 0.0], splay: 0.10, bones: [4.3, 2.7, 2.1], radii: [0.95, 0.84, 0.74, 0.6] },
  { base: [0.5, 9.1, 0.1], splay: 0.01, bones: [4.8, 3.1, 2.2], radii: [0.97, 0.86, 0.75, 0.62] },
  { base: [-1.5, 8.6, 0.0], splay: -0.07, bones: [4.4, 2.9, 2.2], radii: [0.92, 0.82, 0.72, 0.58] },
  { base: [-3.3, 7.6, -0.2], splay: -0.16, bones: [3.5, 2.1, 1.9], radii: [0.82, 0.72, 0.64, 0.52] },
];
const THUMB = { base: [2.4, 2.4, 0.6], bones: [4.3, 3.3, 2.7], radii: [1.25, 1.05, 0.92, 0.7] };
const THUMB_ALONG = unit([0.66, 0.72, 0.22]); // where it points with all angles zero
const THUMB_ACROSS = orthogonal([-0.82, 0.18, 0.54], THUMB_ALONG); // flexion takes it there
const THUMB_AWAY = cross(THUMB_ACROSS, THUMB_ALONG).map((v) => -v); // abduction takes it there
const PALM = [[2.1, 0.4, 0], [3.2, 3.0, 0.2], [2.9, 8.2, 0], [0.5, 8.7, 0.1], [-1.5, 8.2, 0], [-3.4, 7.1, -0.1], [-3.2, 3.0, 0.1], [-2.2, 0.4, 0]];
const WRIST = [[0, 0.6, 0], [0, -9, -0.4]]; // the forearm runs out of the picture
const CENTRE = [0.1, 6.9, 0.6];
const EYE = 46; // distance of the eye, centimetres
const HOME = { yaw: -0.42, pitch: 0.1 };

/** Points of the five fingers, each from its base to its tip, of twenty angles. */
export function fingerPoints(angles) {
  const fingers = [thumbPoints(angles.slice(0, 4))];
  FINGERS.forEach((finger, number) => {
    const [abduction, ...flexions] = angles.slice(4 + 4 * number, 8 + 4 * number);
    const side = finger.splay + abduction;
    const points = [finger.base];
    let bend = 0.06;
    flexions.forEach((flexion, bone) => {
      bend += flexion;
      const along = [Math.sin(side) * Math.cos(bend), Math.cos(side) * Math.cos(bend), Math.sin(bend)];
      points.push(step(points[bone], along, finger.bones[bone]));
    });
    fingers.push(points);
  });
  return fingers;
}

function thumbPoints([flexion, abduction, mcp, ip]) {
  const along = mix(THUMB_ALONG, Math.cos(abduction - 0.2), THUMB_AWAY, Math.sin(abduction - 0.2));
  const points = [THUMB.base];
  let bend = 0;
  [flexion, mcp, ip].forEach((angle, bone) => {
    bend += angle;
    points.push(step(points[bone], mix(along, Math.cos(bend), THUMB_ACROSS, Math.sin(bend)), THUMB.bones[bone]));
  });
  return points;
}

/** A point of the hand after the wrist bent towards the palm and towards the little finger. */
function wristBent([x, y, z], flexion, deviation) {
  const y1 = y * Math.cos(flexion) - z * Math.sin(flexion), z1 = y * Math.sin(flexion) + z * Math.cos(flexion);
  return [x * Math.cos(deviation) - y1 * Math.sin(deviation), x * Math.sin(deviation) + y1 * Math.cos(deviation), z1];
}

export class Hand {
  /** still: media query, whether nothing may move by itself; redraw: asks for `draw` at the screen's next turn */
  constructor(canvas, still, redraw) {
    Object.assign(this, { canvas, still, redraw });
    this.turn = { ...HOME };
    this.shown = null;
    this.wanted = null;
    this.stale = false; // drawn at another size or in other colours
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) this.rotate(event.movementX * 0.01, event.movementY * 0.01);
    });
  }

  rotate(yaw, pitch) {
    this.turn.yaw = Math.max(-1.5, Math.min(1.5, this.turn.yaw + yaw));
    this.turn.pitch = Math.max(-1.0, Math.min(1.0, this.turn.pitch + pitch));
    this.changed();
  }

  home() {
    this.turn = { ...HOME };
    this.changed();
  }

  changed() {
    this.stale = true;
    this.redraw();
  }

  /** Angles to move to, 20 or 23; null leaves the hand as it is. */
  want(angles) {
    if (!angles) return;
    this.wanted = [...angles, 0, 0, 0].slice(0, 23);
    this.redraw();
  }

  /** Move towards the wanted angles: a time constant of 90 ms hides the hops without lagging behind the hand. */
  draw(seconds, colours) {
    if (!this.wanted) return;
    const share = this.shown && !this.still.matches ? 1 - Math.exp(-seconds / 0.09) : 1;
    const left = this.shown ? Math.max(...this.wanted.map((angle, joint) => Math.abs(angle - this.shown[joint]))) : 1;
    if (left < 0.002 && !this.stale) return;
    this.stale = false;
    this.shown = this.wanted.map((angle, joint) => (this.shown ? this.shown[joint] + share * (angle - this.shown[joint]) : angle));
    if (share < 1) this.redraw();
    const { context, width, height } = sized(this.canvas);
    const scale = Math.min(width / 28, height / 27); // an abducted thumb stays inside
    const place = (point) => this.project(point, width / 2, height * 0.55, scale);
    context.lineCap = context.lineJoin = "round";
    for (const part of this.parts().sort((a, b) => a.depth(this) - b.depth(this))) part.draw(context, place, scale, colours);
  }

  project(point, x, y, scale) {
    const [px, py, pz] = this.turned(point);
    const near = EYE / (EYE - pz);
    return { x: x + px * scale * near, y: y - py * scale * near, near, z: pz };
  }

  turned(point) {
    const [x, y, z] = point.map((value, axis) => value - CENTRE[axis]);
    const pitch = this.turn.pitch, yaw = this.turn.yaw - this.shown[22];
    const x1 = x * Math.cos(yaw) + z * Math.sin(yaw);
    const z1 = z * Math.cos(yaw) - x * Math.sin(yaw);
    return [x1, y * Math.cos(pitch) - z1 * Math.sin(pitch), z1 * Math.cos(pitch) + y * Math.sin(pitch)];
  }

  parts() {
    const bent = (point) => wristBent(point, this.shown[20], this.shown[21]);
    const parts = [new Bone(WRIST[0], WRIST[1], 2.25, 2.55, -2), new Palm(bent)];
    fingerPoints(this.shown).forEach((straight, finger) => {
      const points = straight.map(bent);
      const radii = finger === 0 ? THUMB.radii : FINGERS[finger - 1].radii;
      for (let bone = 0; bone < 3; bone += 1) {
        parts.push(new Bone(points[bone], points[bone + 1], radii[bone], radii[bone + 1], bone === 0 ? 0.1 : 0.3));
      }
    });
    return parts;
  }
}

class Bone {
  constructor(from, to, thick, thin, forward) { Object.assign(this, { from, to, thick, thin, forward }); }
  depth(hand) { return (hand.turned(this.from)[2] + hand.turned(this.to)[2]) / 2 + this.forward; }
  draw(context, place, scale, colours) {
    const a = place(this.from), b = place(this.to);
    const ra = this.thick * scale * a.near, rb = this.thin * scale * b.near;
    context.fillStyle = colours.edge;
    context.fill(capsule(a, b, ra + 1.6, rb + 1.6));
    const paint = context.createLinearGradient(a.x, a.y, b.x, b.y);
    paint.addColorStop(0, shade(colours, a.z));
    paint.addColorStop(1, shade(colours, b.z));
    context.fillStyle = paint;
    context.fill(capsule(a, b, ra, rb));
    context.fillStyle = colours.light;
    const lift = (r) => ({ x: -0.28 * r, y: -0.22 * r });
    context.fill(capsule({ x: a.x + lift(ra).x, y: a.y + lift(ra).y }, { x: b.x + lift(rb).x, y: b.y + lift(rb).y }, ra * 0.42, rb * 0.42));
  }
}

class Palm {
  constructor(bent) { this.bent = bent; }
  depth(hand) { return hand.turned(this.bent([0, 4.6, 0]))[2] - 0.3; }
  draw(context, place, scale, colours) {
    const points = PALM.map((point) => place(this.bent(point)));
    const outline = new Path2D();
    points.forEach((point, index) => {
      const next = points[(index + 1) % points.length];
      const x = (point.x + next.x) / 2, y = (point.y + next.y) / 2;
      if (index === 0) outline.moveTo(x, y);
      const after = points[(index + 2) % points.length];
      outline.quadraticCurveTo(next.x, next.y, (next.x + after.x) / 2, (next.y + after.y) / 2);
    });
    outline.closePath();
    const top = place(this.bent([0, 8.5, 0])), bottom = place([0, 0, 0]);
    const paint = context.createLinearGradient(top.x, top.y, bottom.x, bottom.y);
    paint.addColorStop(0, shade(colours, top.z));
    paint.addColorStop(1, shade(colours, bottom.z - 1));
    context.lineWidth = 1.5 * scale + 3.2;
    context.strokeStyle = colours.edge;
    context.stroke(outline);
    context.lineWidth = 1.5 * scale;
    context.strokeStyle = context.fillStyle = paint;
    context.stroke(outline);
    context.fill(outline);
  }
}

/** The outline of a bone: two circles and the tangents between them. */
function capsule(a, b, ra, rb) {
  const path = new Path2D();
  const angle = Math.atan2(b.y - a.y, b.x - a.x);
  const distance = Math.hypot(b.x - a.x, b.y - a.y);
  if (distance <= Math.abs(ra - rb)) { // seen from its end
    const [centre, radius] = ra > rb ? [a, ra] : [b, rb];
    path.arc(centre.x, centre.y, radius, 0, 2 * Math.PI);
    return path;
  }
  const lean = Math.acos((ra - rb) / distance);
  path.arc(a.x, a.y, ra, angle + lean, angle - lean);
  path.arc(b.x, b.y, rb, angle - lean, angle + lean);
  path.closePath();
  return path;
}

/** What is nearer to the eye is lighter. */
function shade(colours, z) {
  const share = Math.max(0, Math.min(1, (z + 5) / 10));
  return `color-mix(in srgb, ${colours.near} ${Math.round(share * 100)}%, ${colours.far})`;
}

/** A canvas in the pixels of its screen, cleared, with the context in CSS pixels. */
export function sized(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function step(from, along, length) { return from.map((value, axis) => value + length * along[axis]); }
function mix(a, wa, b, wb) { return a.map((value, axis) => wa * value + wb * b[axis]); }
function unit(v) { const norm = Math.hypot(...v); return v.map((value) => value / norm); }
function orthogonal(v, to) { const dot = v.reduce((sum, value, axis) => sum + value * to[axis], 0); return unit(mix(v, 1, to, -dot)); }
function cross(a, b) { return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]; }
