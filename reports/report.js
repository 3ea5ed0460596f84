// The page is complete without this script: it sorts, filters, searches, copies, opens a permalink and opens what is
// folded before printing. Text of the page is only ever read and moved, never parsed as mark-up.
(function () {
  // Sorting of tables: by number where cells say one, else by text; rows without a figure stay last.
  function keyOf(row, column) {
    const cell = row.children[column];
    return "value" in cell.dataset ? (cell.dataset.value === "" ? null : Number(cell.dataset.value)) : cell.textContent;
  }
  function compared(a, b) {
    if (a === null || b === null) { return (a === null) - (b === null); }
    return typeof a === "number" ? a - b : a.localeCompare(b, "en");
  }
  document.querySelectorAll("table.sortable").forEach(function (table) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", function () {
        const next = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] || "ascending";
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        if (next !== "none") { head.setAttribute("aria-sort", next); }
        const sign = next === "descending" ? -1 : 1;
        const ordered = next === "none" ? rows : rows.slice().sort(function (a, b) {
          const first = keyOf(a, column);
          const second = keyOf(b, column);
          return first === null || second === null ? compared(first, second) : sign * compared(first, second);
        });
        body.append(...ordered);
      });
    });
  });

  // Copying
  function selectAll(element) {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  }
  document.querySelectorAll("button[data-copy]").forEach(function (button) {
    button.hidden = false;
    button.addEventListener("click", function () {
      const source = document.getElementById(button.dataset.copy);
      function tell(word) { button.textContent = word; }
      function bySelection() {
        selectAll(source);
        tell(document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C");
      }
      if (!navigator.clipboard) { bySelection(); return; }
      navigator.clipboard.writeText(source.textContent).then(function () { tell("Copied"); }, bySelection);
    });
  });

  // Documents: filters, search, order, ten at a time
  const TEN = 10;
  document.querySelectorAll(".tools").forEach(function (tools) {
    const list = tools.parentElement.querySelector(".samples:not(.worst)");
    const samples = Array.from(list.querySelectorAll(":scope > .sample"));
    const count = tools.querySelector("output");
    const search = tools.querySelector("input[type=search]");
    const filters = Array.from(tools.querySelectorAll("button[data-show]"));
    const order = tools.querySelector("button[data-sort]");
    const more = tools.parentElement.querySelector("button.more");
    const texts = new Map();
    let tag = "";
    let room = TEN;
    function plain(text) {
      return text.toLowerCase().replace(/\s+/g, " ");
    }
    function textOf(sample) {
      if (!texts.has(sample)) { texts.set(sample, plain(sample.textContent)); }
      return texts.get(sample);
    }
    function show() {
      const phrase = plain(search.value).trim();
      let found = 0;
      list.querySelectorAll(":scope > .sample").forEach(function (sample) {
        const tagged = !tag || sample.dataset.tags.split(" ").includes(tag);
        const keep = tagged && (!phrase || textOf(sample).includes(phrase));
        found += keep ? 1 : 0;
        sample.hidden = !keep || found > room;
      });
      const all = found <= room;
      more.hidden = all;
      count.textContent = tag || phrase || !all ? Math.min(found, room) + " of " + found + (tag || phrase ? " found" : "") + " shown" : "";
    }
    function anew() {
      room = TEN;
      show();
    }
    tools.hidden = false;
    search.addEventListener("input", anew);
    more.addEventListener("click", function () {
      room += TEN;
      show();
    });
    show();
    filters.forEach(function (button) {
      button.addEventListener("click", function () {
        tag = button.dataset.show;
        filters.forEach(function (other) { other.setAttribute("aria-pressed", String(other === button)); });
        anew();
      });
    });
    if (order) {
      order.addEventListener("click", function () {
        const pressed = order.getAttribute("aria-pressed") === "true";
        order.setAttribute("aria-pressed", String(!pressed));
        const ordered = pressed ? samples : samples.slice().sort(function (a, b) {
          return Math.abs(Number(b.dataset.gap || 0)) - Math.abs(Number(a.dataset.gap || 0));
        });
        list.append(...ordered);
        anew();
      });
    }
    tools.querySelector("button[data-open]").addEventListener("click", function (event) {
      const open = event.currentTarget.dataset.open === "true";
      samples.forEach(function (sample) { sample.open = open; });
      event.currentTarget.dataset.open = String(!open);
      event.currentTarget.textContent = open ? "Close all" : "Open all";
    });
  });

  // Permalinks open what they point to
  function openTarget() {
    const target = document.getElementById(decodeURIComponent(window.location.hash.slice(1)));
    if (!target) { return; }
    for (let above = target; above; above = above.parentElement) {
      if (above.tagName === "DETAILS") { above.open = true; }
      if (above.classList.contains("sample")) { above.hidden = false; }
    }
    target.scrollIntoView();
  }
  window.addEventListener("hashchange", openTarget);
  openTarget();

  // Paper shows what is folded, but not every document
  let closed = [];
  window.addEventListener("beforeprint", function () {
    closed = Array.from(document.querySelectorAll("details:not([open]):not(.sample)"));
    closed.forEach(function (details) { details.open = true; });
  });
  window.addEventListener("afterprint", function () {
    closed.forEach(function (details) { details.open = false; });
  });
})();
