// The frame: theme, menu on small screens, back button. Loaded before anything is drawn.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const order = ["system", "light", "dark"];
  const chosen = () => {
    const found = localStorage.getItem("aura-theme");
    return order.includes(found) ? found : "system";
  };

  function paint() {
    const theme = chosen();
    const isDark = theme === "dark" || (theme === "system" && dark.matches);
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    if (window.Quasar && Quasar.Dark) Quasar.Dark.set(isDark);
    const button = document.getElementById("theme-button");
    if (button) {
      button.title = `Theme: ${theme}`;
      button.setAttribute("aria-label", `Theme: ${theme}. Change it`);
    }
  }

  function menu(open) {
    document.documentElement.classList.toggle("menu-open", open);
    document.getElementById("menu-button")?.setAttribute("aria-expanded", String(open));
  }

  paint();
  dark.addEventListener("change", paint);
  addEventListener("storage", paint);
  const place = () => location.pathname + location.search;
  let last = place();
  for (const name of ["pushState", "replaceState"]) {
    const real = history[name];
    history[name] = function (...given) {
      real.apply(this, given);
      last = place();
    };
  }
  addEventListener("popstate", () => place() !== last && location.reload());
  addEventListener("click", (event) => {
    const of = (id) => event.target.closest?.(id);
    if (of("#theme-button")) {
      localStorage.setItem("aura-theme", order[(order.indexOf(chosen()) + 1) % order.length]);
      paint();
    } else if (of("#menu-button")) {
      menu(!document.documentElement.classList.contains("menu-open"));
    } else if (!of("#menu")) {
      menu(false);
    }
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") menu(false);
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName);
    if (event.key === "/" && !typing) {
      const search = document.querySelector("[data-search] input, input[data-search]");
      if (search) {
        event.preventDefault();
        search.focus();
      }
    }
  });
  const drawn = new MutationObserver(() => {
    if (!document.getElementById("theme-button")) return;
    drawn.disconnect();
    paint();
  });
  drawn.observe(document.documentElement, { childList: true, subtree: true });

  // A server that has begun anew does not know this page any more: then it is loaded again, which
  // leads to the login where that is needed. A page that never had its connection is left alone.
  let refused = 0;
  async function lost() {
    if (!window.did_handshake) return;
    const there = await fetch("/_aura/favicon.svg", { cache: "no-store" }).then((one) => one.ok, () => false);
    refused = there ? refused + 1 : 0;
    if (refused > 1) location.reload();
  }
  const waiting = setInterval(() => {
    if (!window.socket) return;
    clearInterval(waiting);
    window.socket.on("connect", () => (refused = 0));
    window.socket.on("connect_error", lost);
  }, 250);
})();
