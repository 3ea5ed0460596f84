"use strict";
// The page is complete without this script; it adds the theme switch, the sample filter and open details on paper.
(function () {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
  }
  function showTheme() {
    theme.textContent = isDark() ? "Light theme" : "Dark theme";
  }
  theme.hidden = false;
  theme.addEventListener("click", function () {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  prefersDark.addEventListener("change", showTheme);
  showTheme();

  const wanted = {
    all: function () { return true; },
    ahead: function (marks) { return marks[0] === "right" && marks.slice(1).includes("wrong"); },
    behind: function (marks) { return marks[0] === "wrong" && marks.slice(1).includes("right"); },
    wrong: function (marks) { return marks.every(function (mark) { return mark === "wrong"; }); },
  };
  document.querySelectorAll(".tools").forEach(function (tools) {
    const samples = Array.from(tools.parentElement.querySelectorAll(".sample"));
    const count = tools.querySelector("output");
    const buttons = Array.from(tools.querySelectorAll("button[data-show]"));
    tools.hidden = false;
    buttons.forEach(function (button) {
      button.addEventListener("click", function () {
        let shown = 0;
        samples.forEach(function (sample) {
          const keep = wanted[button.dataset.show](sample.dataset.marks.split(" "));
          sample.hidden = !keep;
          shown += keep ? 1 : 0;
        });
        buttons.forEach(function (other) { other.setAttribute("aria-pressed", String(other === button)); });
        count.textContent = shown + " shown";
      });
    });
    tools.querySelector("button[data-open]").addEventListener("click", function (event) {
      const open = event.currentTarget.dataset.open === "true";
      samples.forEach(function (sample) { sample.open = open; });
      event.currentTarget.dataset.open = String(!open);
      event.currentTarget.textContent = open ? "Close all" : "Open all";
    });
  });

  let closed = [];
  window.addEventListener("beforeprint", function () {
    closed = Array.from(document.querySelectorAll("details:not([open])"));
    closed.forEach(function (details) { details.open = true; });
  });
  window.addEventListener("afterprint", function () {
    closed.forEach(function (details) { details.open = false; });
  });
})();
