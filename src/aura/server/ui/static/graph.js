// The graph of a run's steps: one after the other from left to right, lanes one under the other.
import { shape } from "/_aura/lanes.js";

const WIDE = 160, HIGH = 44, GAP_X = 34, GAP_Y = 12;

// {width, height, nodes: [{x, y, name, times, state, key}], edges: [{from, to}]}, in pixels.
export function layout(top) {
  const nodes = [], edges = [];
  const size = place({ items: shape(top), times: 1 }, 0, 0, nodes, edges, []);
  return { width: size.width, height: size.height, nodes, edges, wide: WIDE, high: HIGH };
}

function measure(lane) {
  let width = 0, height = HIGH;
  for (const one of lane.items) {
    const size = one.kind === "call" ? { width: WIDE, height: HIGH } : block(one);
    width += size.width + (width ? GAP_X : 0);
    height = Math.max(height, size.height);
  }
  return { width, height };
}

function block(one) {
  const sizes = one.lanes.map(measure);
  return {
    width: Math.max(...sizes.map((size) => size.width)),
    height: sizes.reduce((sum, size) => sum + size.height, 0) + GAP_Y * (sizes.length - 1),
  };
}

// Draws a lane at (x, y) after the nodes `before`; `last` are those that what follows comes after.
function place(lane, x, y, nodes, edges, before) {
  const whole = measure(lane);
  let at = x, last = before;
  for (const one of lane.items) {
    if (one.kind === "call") {
      const node = { ...one, x: at, y: y + (whole.height - HIGH) / 2, lanes: lane.times };
      nodes.push(node);
      last.forEach((from) => edges.push({ from, to: node }));
      last = [node];
      at += WIDE + GAP_X;
      continue;
    }
    const size = block(one);
    let top = y + (whole.height - size.height) / 2;
    const ends = [];
    for (const inner of one.lanes) {
      const done = place(inner, at, top, nodes, edges, last);
      ends.push(...done.last);
      top += done.height + GAP_Y;
    }
    last = ends;
    at += size.width + GAP_X;
  }
  return { ...whole, last };
}
