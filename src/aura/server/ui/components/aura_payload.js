// An input or output, as text. Of a large one its beginning; the rest is fetched when asked for, and
// shown in pieces, of which the browser lays out those that are seen.
import { bytes } from "/_aura/format.js";
const { h } = Vue;
const PIECE = 20000;

export default {
  props: { label: String, text: String, size: Number, whole: Boolean, source: String },
  data() {
    return { all: null, said: "" };
  },
  watch: {
    source() {
      this.all = null;
      this.said = "";
    },
  },
  methods: {
    async fetchAll() {
      this.said = "Loading …";
      const answer = await fetch(this.source, { credentials: "same-origin" });
      const text = await answer.text();
      if (!answer.ok) {
        this.said = text;
        return;
      }
      this.all = [];
      for (let at = 0; at < text.length; at += PIECE) this.all.push(text.slice(at, at + PIECE));
      this.said = "";
    },
  },
  render() {
    const size = this.size === null || this.size === undefined ? null : h("span", { class: "muted" }, bytes(this.size));
    const parts = [h("div", { class: "payload-head" }, [h("h3", {}, this.label), size])];
    if (this.all) {
      const pieces = this.all.map((piece) => h("span", { class: "piece" }, piece));
      parts.push(h("pre", { class: "code payload", tabindex: 0 }, pieces));
    } else {
      parts.push(h("pre", { class: "code payload", tabindex: 0 }, this.text + (this.whole ? "" : " …")));
    }
    if (!this.whole && !this.all && this.source) {
      parts.push(h("div", { class: "payload-more" }, [
        h("button", { class: "button", type: "button", onClick: this.fetchAll }, `Show all (${bytes(this.size)})`),
        h("span", { class: "muted", role: "status" }, this.said),
      ]));
    }
    return h("div", { class: "payload-box" }, parts);
  },
};
