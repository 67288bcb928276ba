// A table: every value is text. On a small screen each row becomes a card.
import { age, duration, instant, number, share } from "/_aura/format.js";
const { h } = Vue;

export default {
  props: { columns: String, rows: String, tones: String, empty: String, label: String, choosable: Boolean },
  emits: ["chosen"],
  data() {
    return { picked: new Set(), now: Date.now() };
  },
  computed: {
    cols() {
      return JSON.parse(this.columns);
    },
    list() {
      return JSON.parse(this.rows || "[]");
    },
    tone() {
      return JSON.parse(this.tones);
    },
    nothing() {
      return JSON.parse(this.empty);
    },
  },
  mounted() {
    this.timer = setInterval(() => (this.now = Date.now()), 1000);
  },
  unmounted() {
    clearInterval(this.timer);
  },
  methods: {
    cell(col, row) {
      const value = row[col.key];
      if (value === null || value === undefined || value === "") return h("span", { class: "muted" }, "–");
      switch (col.kind) {
        case "link":
          return h("a", { class: "link", href: row.href, title: String(value) }, String(value));
        case "code":
          return h("code", {}, String(value));
        case "state":
        case "badge":
          return h("span", { class: ["badge", row[col.key + "_tone"] || this.tone[value] || "grey"] }, String(value));
        case "time":
          return h("time", { datetime: value, title: instant(value) }, age(value, this.now));
        case "seconds":
          return h("span", { class: "number" }, duration(value));
        case "number":
          return h("span", { class: "number" }, number(value));
        case "share":
          return h("span", { class: "share" }, [
            h("span", { class: "share-bar" }, [h("span", { style: { width: `${100 * value}%` } })]),
            h("span", { class: "number" }, share(value)),
          ]);
        default:
          return h("span", { class: "clamp", title: String(value) }, String(value));
      }
    },
    follow(event, row) {
      if (!row.href || event.target.closest("a,input,button") || String(getSelection())) return;
      if (event.metaKey || event.ctrlKey) window.open(row.href, "_blank", "noopener");
      else location.href = row.href;
    },
    pick(id, on) {
      on ? this.picked.add(id) : this.picked.delete(id);
      this.tell();
    },
    pickAll(on) {
      this.picked = new Set(on ? this.list.map((row) => row.id) : []);
      this.tell();
    },
    tell() {
      const there = this.list.map((row) => row.id).filter((id) => this.picked.has(id));
      this.$emit("chosen", there);
    },
    tick(checked, label, change) {
      const input = { type: "checkbox", checked, "aria-label": label, onChange: (e) => change(e.target.checked) };
      return h("input", input);
    },
  },
  render() {
    if (!this.list.length) {
      const { title, sentence, command } = this.nothing;
      return h("div", { class: "empty" }, [
        h("p", { class: "empty-title" }, title),
        sentence ? h("p", { class: "muted" }, sentence) : null,
        command ? h("pre", { class: "code command", tabindex: 0 }, command) : null,
      ]);
    }
    const head = this.cols.map((col) => h("th", { scope: "col", class: ["k-" + col.kind] }, col.label));
    if (this.choosable) {
      const all = this.list.every((row) => this.picked.has(row.id));
      head.unshift(h("th", { class: "tick" }, [this.tick(all, "Choose all on this page", this.pickAll)]));
    }
    const body = this.list.map((row) => {
      const cells = this.cols.map((col) =>
        h("td", { class: ["k-" + col.kind, col.narrow ? "" : "wide"], "data-label": col.label }, [this.cell(col, row)]),
      );
      if (this.choosable) {
        const change = (on) => this.pick(row.id, on);
        cells.unshift(h("td", { class: "tick" }, [this.tick(this.picked.has(row.id), "Choose " + row.id, change)]));
      }
      const classes = [row.href ? "leads" : "", this.picked.has(row.id) ? "picked" : ""];
      return h("tr", { key: row.id, class: classes, onClick: (e) => this.follow(e, row) }, cells);
    });
    return h("div", { class: "table-box", role: "region", "aria-label": this.label, tabindex: 0 }, [
      h("table", { class: "table" }, [h("thead", {}, [h("tr", {}, head)]), h("tbody", {}, body)]),
    ]);
  },
};
