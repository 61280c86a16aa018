// Runs before the first paint, so that a chosen theme never flashes in the other one's colours.
(() => {
  const KEY = "twintrack-theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  function remembered() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is forbidden: the theme then lasts as long as the page
    }
  }

  function show(theme) {
    root.dataset.theme = theme;
    const other = theme === "dark" ? "light" : "dark";
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.setAttribute("aria-label", `Change to the ${other} theme`);
      button.title = `Change to the ${other} theme`;
    }
    const paper = getComputedStyle(root).backgroundColor;
    document.querySelector('meta[name="theme-color"]')?.setAttribute("content", paper);
  }

  const wanted = () => remembered() ?? (system.matches ? "dark" : "light");

  root.dataset.theme = wanted();
  system.addEventListener("change", () => show(wanted()));
  document.addEventListener("DOMContentLoaded", () => {
    show(wanted());
    document.addEventListener("click", (event) => {
      if (!event.target.closest("[data-theme-toggle]")) return;
      const theme = root.dataset.theme === "dark" ? "light" : "dark";
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        // shown all the same
      }
      show(theme);
    });
  });
})();
