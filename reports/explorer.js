// The layer explorer: groups and a range choose which layers' latents are active; texts come from the JSON beside it and
// are inserted as text. The table below it holds the same without this script.
(function () {
  "use strict";
  function keyOf(layers) {
    const runs = [];
    layers.forEach(function (layer) {
      const run = runs[runs.length - 1];
      if (run && layer === run[1] + 1) { run[1] = layer; } else { runs.push([layer, layer]); }
    });
    return runs.map(function (run) { return run[0] === run[1] ? String(run[0]) : run[0] + "-" + run[1]; }).join(",") || "none";
  }
  function between(first, last) {
    return Array.from({ length: last - first + 1 }, function (_, place) { return first + place; });
  }
  function wordsOf(key) {
    if (key === "none") { return "no layer"; }
    const several = key.includes("-") || key.includes(",");
    return "layer" + (several ? "s " : " ") + key.replaceAll("-", "–").replaceAll(",", ", ");
  }

  document.querySelectorAll(".explorer").forEach(function (box) {
    const data = JSON.parse(document.getElementById(box.dataset.explorer).textContent);
    const shown = {};
    box.querySelectorAll("[data-shown]").forEach(function (place) { shown[place.dataset.shown] = place; });
    const groups = Array.from(box.querySelectorAll("button[data-group]"));
    const cells = Array.from(box.querySelectorAll("[data-layer]"));
    const first = box.querySelector("input[data-end=first]");
    const last = box.querySelector("input[data-end=last]");
    const choice = box.querySelector("select");
    const whole = between(1, data.layers);
    let active = whole;

    function show() {
      const item = data.items[choice ? Number(choice.value) : 0];
      const key = keyOf(active);
      const found = item.sets[key];
      const all = item.sets[keyOf(whole)];
      cells.forEach(function (cell) { cell.classList.toggle("on", active.includes(Number(cell.dataset.layer))); });
      groups.forEach(function (button) {
        const group = data.groups[Number(button.dataset.group)];
        const on = between(group[0], group[1]).every(function (layer) { return active.includes(layer); });
        button.setAttribute("aria-pressed", String(on));
      });
      const isRange = active.length > 0 && active.length === active[active.length - 1] - active[0] + 1;
      shown.first.textContent = isRange ? first.value : "–";
      shown.last.textContent = isRange ? last.value : "–";
      shown.prompt.textContent = item.prompt || "(end-of-text alone)";
      shown.rest.textContent = item.rest;
      shown.whole.textContent = all ? item.texts[all[0]] || "(nothing)" : "–";
      shown.made.textContent = found ? item.texts[found[0]] || "(nothing)" : "not generated for this set";
      ["nll", "similarity", "text_nll", "top1"].forEach(function (name, place) {
        shown[name].textContent = found ? found[place + 1] : "–";
      });
      const said = found ? ", similarity to all layers " + found[2] : ": not generated";
      shown.state.textContent = "Active: " + wordsOf(key) + said;
    }
    function choose(layers) {
      active = layers;
      if (layers.length && layers.length === layers[layers.length - 1] - layers[0] + 1) {
        first.value = layers[0];
        last.value = layers[layers.length - 1];
      }
      show();
    }
    function moved(event) {
      let low = Number(first.value);
      let high = Number(last.value);
      if (low > high) {
        if (event.currentTarget === first) { high = low; } else { low = high; }
        first.value = low;
        last.value = high;
      }
      // The handle that can still move lies on top where both stand at one end.
      first.style.zIndex = low === data.layers ? "2" : "1";
      choose(between(low, high));
    }
    groups.forEach(function (button) {
      button.addEventListener("click", function () {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        const on = groups.filter(function (one) { return one.getAttribute("aria-pressed") === "true"; });
        choose(on.flatMap(function (one) {
          const group = data.groups[Number(one.dataset.group)];
          return between(group[0], group[1]);
        }));
      });
    });
    box.querySelector("button[data-all]").addEventListener("click", function () { choose(whole); });
    box.querySelector("button[data-none]").addEventListener("click", function () { choose([]); });
    first.addEventListener("input", moved);
    last.addEventListener("input", moved);
    if (choice) { choice.addEventListener("change", show); }
    box.style.setProperty("--layers", String(data.layers));
    box.hidden = false;
    choose(whole);
  });
})();
