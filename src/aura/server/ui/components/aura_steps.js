// A run's calls in three ways: on a time line, as a graph, and as a list. Only the rows that can be
// seen are drawn, so that ten thousand steps scroll like ten.
import { bytes, duration } from "/_aura/format.js";
import { layout } from "/_aura/graph.js";
import { parsed, rows, tree } from "/_aura/lanes.js";
const { h } = Vue;

const ROW = 28;
const VIEWS = [
  ["timeline", "Timeline"],
  ["graph", "Graph"],
  ["journal", "Journal"],
];
const MOST_NODES = 400;

export default {
  props: { given: String, running: Boolean, now: Number, view: String, picked: String, more: Boolean },
  emits: ["look", "view"],
  data() {
    return { calls: new Map(), top: 0, high: 480, wanted: "", faults: false, closed: new Set(), shown: this.view, open: this.picked };
  },
  created() {
    this.put(JSON.parse(this.given));
  },
  mounted() {
    this.size();
    addEventListener("resize", this.size);
  },
  unmounted() {
    removeEventListener("resize", this.size);
  },
  computed: {
    list() {
      return [...this.calls.values()];
    },
    chosen() {
      const word = this.wanted.toLowerCase();
      return this.list.filter((one) => (!word || one.key.toLowerCase().includes(word)) && (!this.faults || one.state === "failed" || one.attempts > 1));
    },
    tree() {
      return tree(this.chosen);
    },
    rows() {
      return this.shown === "journal" ? this.chosen.map((call) => ({ call, depth: 0 })) : rows(this.tree, this.closed);
    },
    end() {
      const ends = this.list.reduce((latest, one) => Math.max(latest, one.end ?? one.start), 1);
      return this.running ? Math.max(ends, this.now) : ends;
    },
  },
  methods: {
    // Rows as they come: [key, kind, state, attempts, start, end or null, bytes or null, tries], in ms.
    put(found) {
      for (const [key, kind, state, attempts, start, end, size, tries] of found) {
        this.calls.set(key, Object.freeze({ key, ...parsed(key), kind, state, attempts, start, end, size, tries }));
      }
      this.calls = new Map(this.calls);
    },
    restart(found) {
      this.calls = new Map();
      this.put(found);
    },
    size() {
      this.high = this.$refs.box?.clientHeight || 480;
    },
    look(key) {
      this.open = key;
      this.$emit("look", key);
    },
    show(view) {
      this.shown = view;
      this.top = 0;
      if (this.$refs.box) this.$refs.box.scrollTop = 0;
      this.$emit("view", view);
      this.$nextTick(this.size);
    },
    fold(lane) {
      const closed = new Set(this.closed);
      closed.has(lane) ? closed.delete(lane) : closed.add(lane);
      this.closed = closed;
    },
    keys(event, at) {
      const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = Math.min(this.rows.length - 1, Math.max(0, at + step));
      const box = this.$refs.box;
      if (next * ROW < box.scrollTop) box.scrollTop = next * ROW;
      if ((next + 1) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (next + 1) * ROW - box.clientHeight;
      this.top = box.scrollTop;
      this.$nextTick(() => box.querySelector(`[data-at="${next}"]`)?.focus());
    },
    // -- what is drawn --
    bar(call) {
      const part = (ms) => `${(100 * ms) / this.end}%`;
      const end = call.end ?? (this.running ? this.end : call.start);
      const style = { left: part(call.start), width: `max(3px, ${part(Math.max(0, end - call.start))})` };
      const tries = (call.tries || []).map(([from, to]) =>
        h("span", { class: "try", style: { left: part(from), width: `max(2px, ${part(Math.max(0, to - from))})` } }),
      );
      const text = end - call.start > 0.8 * this.end ? null : h("span", { class: "bar-text", style: { left: `calc(${part(end)} + 8px)` } }, duration((end - call.start) / 1000));
      const late = end > 0.86 * this.end;
      if (text && late) text.props.style = { right: `calc(100% - ${part(call.start)} + 8px)` };
      return h("span", { class: "track" }, [h("span", { class: ["bar", call.state, "of-" + call.kind, tries.length ? "tried" : ""], style }), ...tries, text]);
    },
    label(call) {
      const times = call.attempts > 1 ? h("span", { class: "tries" }, `${call.attempts} tries`) : null;
      return [h("span", { class: ["dot", call.state] }), h("span", { class: "step-name" }, call.name), times];
    },
    row(item, at) {
      const place = { top: `${at * ROW}px` };
      const indent = { paddingLeft: `${16 + 16 * item.depth}px` };
      if (item.head) {
        const text = `lane ${item.head.lane}`;
        return h("button", { class: "step lane", type: "button", style: place, "data-at": at, "aria-expanded": String(!item.shut), onClick: () => this.fold(item.head.lane), onKeydown: (e) => this.keys(e, at) }, [
          h("span", { class: "step-label", style: indent }, [h("span", { class: ["fold", item.shut ? "shut" : ""] }), text]),
        ]);
      }
      const call = item.call;
      const told = `${call.name}, ${call.state}`;
      const about = { class: ["step", this.open === call.key ? "open" : ""], type: "button", style: place, "data-at": at, "aria-label": told, title: call.key, onClick: () => this.look(call.key), onKeydown: (e) => this.keys(e, at) };
      if (this.shown !== "journal") {
        return h("button", about, [h("span", { class: "step-label", style: indent }, this.label(call)), this.bar(call)]);
      }
      const took = call.end === null ? "–" : duration((call.end - call.start) / 1000);
      return h("button", about, [
        h("span", { class: "step-label" }, this.label(call)),
        h("span", { class: "cell muted" }, call.kind),
        h("span", { class: "cell muted mono" }, call.lane),
        h("span", { class: "cell number" }, `+${duration(call.start / 1000)}`),
        h("span", { class: "cell number" }, took),
        h("span", { class: "cell number muted" }, call.size === null ? "–" : bytes(call.size)),
      ]);
    },
    axis() {
      const marks = [0, 0.25, 0.5, 0.75, 1].map((part) =>
        h("span", { class: "mark", style: { left: `${100 * part}%` } }, part ? duration((part * this.end) / 1000) : "0"),
      );
      return h("div", { class: "steps-head" }, [h("span", { class: "step-label" }, "Step"), h("span", { class: "track" }, marks)]);
    },
    heads() {
      const names = ["Step", "Kind", "Lane", "Began", "Took", "Gave"];
      return h("div", { class: "steps-head list" }, names.map((name, at) => h("span", { class: [at ? "cell" : "step-label", at > 2 ? "number" : ""] }, name)));
    },
    windowed() {
      const first = Math.max(0, Math.floor(this.top / ROW) - 8);
      const last = Math.min(this.rows.length, Math.ceil((this.top + this.high) / ROW) + 8);
      const seen = [];
      for (let at = first; at < last; at++) seen.push(this.row(this.rows[at], at));
      const onScroll = (event) => (this.top = event.target.scrollTop);
      return h("div", { class: ["steps", this.shown], ref: "box", onScroll }, [
        h("div", { class: "steps-all", style: { height: `${this.rows.length * ROW}px` } }, seen),
      ]);
    },
    graph() {
      const drawn = layout(this.tree);
      if (drawn.nodes.length > MOST_NODES) {
        return h("p", { class: "muted pad" }, `${drawn.nodes.length} different steps are too many for a graph: search for some, or look at the timeline.`);
      }
      const wide = drawn.wide, high = drawn.high;
      const lines = drawn.edges.map(({ from, to }) => {
        const x1 = from.x + wide, y1 = from.y + high / 2, x2 = to.x, y2 = to.y + high / 2, mid = (x1 + x2) / 2;
        return h("path", { class: "edge", d: `M${x1} ${y1}C${mid} ${y1} ${mid} ${y2} ${x2} ${y2}` });
      });
      const boxes = drawn.nodes.map((node) => {
        const times = node.times > 1 ? `${node.times}×` : "";
        const lanes = node.lanes > 1 ? `${node.lanes} lanes` : "";
        const name = node.name.length > 19 ? node.name.slice(0, 18) + "…" : node.name;
        const told = [times, lanes].filter(Boolean).join(" · ");
        const pick = () => this.look(node.key);
        const onKeydown = (e) => (e.key === "Enter" || e.key === " ") && (e.preventDefault(), pick());
        return h("g", { class: ["node", node.state], transform: `translate(${node.x} ${node.y})`, tabindex: 0, role: "button", "aria-label": `${node.name}, ${node.state}`, onClick: pick, onKeydown }, [
          h("title", {}, node.name),
          h("rect", { width: wide, height: high, rx: 6 }),
          h("circle", { cx: 14, cy: told ? 16 : high / 2, r: 4 }),
          h("text", { x: 25, y: told ? 20 : high / 2 + 4 }, name),
          h("text", { class: "times", x: 25, y: 36 }, told),
        ]);
      });
      const size = { width: drawn.width + 24, height: drawn.height + 24 };
      return h("div", { class: "graph", tabindex: 0, role: "group", "aria-label": "Graph of the steps" }, [
        h("svg", { ...size, viewBox: `-12 -12 ${size.width} ${size.height}` }, [...lines, ...boxes]),
      ]);
    },
  },
  render() {
    const tabs = VIEWS.map(([view, label]) =>
      h("button", { class: "tab", type: "button", role: "tab", "aria-selected": String(this.shown === view), onClick: () => this.show(view) }, label),
    );
    const search = h("input", { class: "input small", type: "search", placeholder: "Find a step", "aria-label": "Find a step", value: this.wanted, onInput: (e) => ((this.wanted = e.target.value), (this.top = 0)) });
    const faults = h("label", { class: "check" }, [h("input", { type: "checkbox", checked: this.faults, onChange: (e) => (this.faults = e.target.checked) }), "failed or repeated"]);
    const body = !this.list.length
      ? h("p", { class: "muted pad" }, "Nothing is in the journal yet.")
      : !this.chosen.length
        ? h("p", { class: "muted pad" }, "No step is like that.")
        : this.shown === "graph"
          ? this.graph()
          : [this.shown === "journal" ? this.heads() : this.axis(), this.windowed()];
    return h("div", { class: "steps-box" }, [
      h("div", { class: "steps-bar" }, [h("div", { class: "tabs", role: "tablist", "aria-label": "How the steps are shown" }, tabs), search, faults, h("span", { class: "muted count" }, `${this.list.length.toLocaleString("en-US")} ${this.list.length === 1 ? "call" : "calls"}${this.more ? " (the first ones)" : ""}`)]),
      body,
    ]);
  },
};
