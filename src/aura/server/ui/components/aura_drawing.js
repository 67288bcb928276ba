// A chart: SVG text that aura.server.ui.charts made and escaped; nothing else is ever given to it.
const { h } = Vue;

export default {
  props: { drawing: String },
  render() {
    return h("div", { class: "drawing", innerHTML: this.drawing });
  },
};
