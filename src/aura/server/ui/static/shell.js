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
})();
