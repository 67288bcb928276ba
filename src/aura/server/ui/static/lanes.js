// A journal's calls as a tree of lanes. A key is `lane/name#number`; a lane `0.1` lies in `0`.

export function parsed(key) {
  const slash = key.indexOf("/");
  const rest = key.slice(slash + 1);
  const hash = rest.lastIndexOf("#");
  return { lane: key.slice(0, slash), name: hash > 0 ? rest.slice(0, hash) : rest };
}

// A lane stands where its first call was made: {lane, items: [call or lane]}.
export function tree(calls) {
  return lane("0", calls);
}

function lane(id, calls) {
  const below = new Map();
  const items = [];
  for (const call of calls) {
    if (call.lane === id) {
      items.push(call);
      continue;
    }
    const child = childOf(id, call.lane);
    if (!below.has(child)) {
      below.set(child, []);
      items.push(child);
    }
    below.get(child).push(call);
  }
  return { lane: id, items: items.map((one) => (typeof one === "string" ? lane(one, below.get(one)) : one)) };
}

function childOf(id, deeper) {
  if (!deeper.startsWith(id + ".")) return deeper;
  return `${id}.${deeper.slice(id.length + 1).split(".", 1)[0]}`;
}

// Rows of the timeline: calls, and a head for each lane but the first.
export function rows(top, closed) {
  const found = [];
  (function walk(node, depth) {
    for (const one of node.items) {
      if (!one.items) found.push({ call: one, depth });
      else {
        const shut = closed.has(one.lane);
        found.push({ head: one, depth, shut });
        if (!shut) walk(one, depth + 1);
      }
    }
  })(top, 0);
  return found;
}

// What happens one after the other and side by side, with repetitions counted:
// {kind: "call", name, times, state, key} or {kind: "lanes", lanes: [{times, items}]}.
export function shape(node) {
  const items = [];
  let lanes = null;
  for (const one of node.items) {
    if (one.items) {
      if (!lanes) items.push((lanes = { kind: "lanes", lanes: [] }));
      const inner = { times: 1, items: shape(one) };
      const same = lanes.lanes.find((other) => outline(other.items) === outline(inner.items));
      if (same) merge(same, inner);
      else lanes.lanes.push(inner);
      continue;
    }
    lanes = null;
    const last = items.at(-1);
    if (last && last.kind === "call" && last.name === one.name) {
      last.times += 1;
      last.state = worse(last.state, one.state);
      if (one.state !== "done") last.key = one.key;
    } else items.push({ kind: "call", name: one.name, what: one.kind, times: 1, state: one.state, key: one.key });
  }
  return items;
}

function outline(items) {
  return items
    .map((one) => (one.kind === "call" ? one.name : `(${one.lanes.map((l) => outline(l.items)).join("|")})`))
    .join(">");
}

function merge(into, other) {
  into.times += other.times;
  into.items.forEach((one, at) => {
    const mate = other.items[at];
    if (one.kind === "call") {
      if (worse(one.state, mate.state) !== one.state) one.key = mate.key;
      one.state = worse(one.state, mate.state);
      one.times = Math.max(one.times, mate.times);
    } else one.lanes.forEach((l, n) => mate.lanes[n] && merge(l, mate.lanes[n]));
  });
}

const ORDER = ["done", "waiting", "retrying", "failed"];
const worse = (a, b) => (ORDER.indexOf(a) >= ORDER.indexOf(b) ? a : b);
