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
  // Parts of a text are alternately as in the text of all layers and changed.
  function put(place, parts) {
    place.textContent = "";
    parts.forEach(function (part, index) {
      const node = index % 2 ? document.createElement("mark") : document.createTextNode(part);
      if (index % 2) { node.className = "changed"; node.textContent = part; }
      place.append(node);
    });
    if (!place.textContent) { place.textContent = "(nothing)"; }
  }

  document.querySelectorAll(".explorer").forEach(function (box) {
    const data = JSON.parse(document.getElementById(box.dataset.explorer).textContent);
    const shown = {};
    box.querySelectorAll("[data-shown]").forEach(function (place) { shown[place.dataset.shown] = place; });
    const groups = Array.from(box.querySelectorAll("button[data-group]"));
    const presets = Array.from(box.querySelectorAll("button[data-layers]"));
    const cells = Array.from(box.querySelectorAll("[data-layer]"));
    const first = box.querySelector("input[data-end=first]");
    const last = box.querySelector("input[data-end=last]");
    const choice = box.querySelector("select");
    const whole = between(1, data.layers);
    let active = whole;

    function layersOf(group) { return between(data.groups[group][0], data.groups[group][1]); }
    function isOn(button) { return button.getAttribute("aria-pressed") === "true"; }
    function pressed(button) {
      const own = layersOf(Number(button.dataset.group));
      const on = own.filter(function (layer) { return active.includes(layer); }).length;
      return on === own.length ? "true" : on ? "mixed" : "false";
    }
    function show() {
      const item = data.items[choice ? Number(choice.value) : 0];
      const key = keyOf(active);
      const found = item.sets[key];
      const all = item.sets[keyOf(whole)];
      cells.forEach(function (cell) { cell.classList.toggle("on", active.includes(Number(cell.dataset.layer))); });
      groups.forEach(function (button) { button.setAttribute("aria-pressed", pressed(button)); });
      presets.forEach(function (button) { button.setAttribute("aria-pressed", String(button.dataset.layers === key)); });
      [first, last].forEach(function (handle) {
        handle.setAttribute("aria-valuetext", "layer " + handle.value + "; active: " + wordsOf(key));
      });
      shown.prompt.textContent = item.prompt || "(end-of-text alone)";
      if (shown.rest) { shown.rest.textContent = item.rest; }
      put(shown.whole, all ? item.texts[all[0]] : ["–"]);
      put(shown.made, found ? item.texts[found[0]] : ["not generated for this set"]);
      ["nll", "similarity", "text_nll", "top1"].forEach(function (name, place) {
        shown[name].textContent = found ? found[place + 1] : "–";
      });
      let said = ": not generated";
      if (found) { said = all && found[0] === all[0] ? ": the text of all layers" : ": similarity to all layers " + found[2]; }
      shown.state.textContent = "Active: " + wordsOf(key) + said;
    }
    function choose(layers) {
      active = layers;
      if (layers.length) {
        first.value = layers[0];
        last.value = layers[layers.length - 1];
      }
      show();
    }
    function moved(handle) {
      let low = Number(first.value);
      let high = Number(last.value);
      if (low > high) {
        if (handle === first) { high = low; } else { low = high; }
      }
      // The handle that can still move lies on top where both stand at one end.
      first.style.zIndex = low === data.layers ? "2" : "1";
      choose(between(low, high));
    }
    groups.forEach(function (button) {
      button.addEventListener("click", function () {
        const on = groups.filter(function (one) { return isOn(one) !== (one === button); });
        choose(on.flatMap(function (one) { return layersOf(Number(one.dataset.group)); }));
      });
    });
    presets.forEach(function (button) {
      button.addEventListener("click", function () {
        const ends = button.dataset.layers.split("-").map(Number);
        choose(button.dataset.layers === "none" ? [] : between(ends[0], ends[ends.length - 1]));
      });
    });
    [first, last].forEach(function (handle) {
      handle.addEventListener("input", function () { moved(handle); });
    });
    // A click on a layer moves the nearer handle there; from the keyboard the handles move themselves.
    cells.forEach(function (cell) {
      cell.addEventListener("click", function () {
        const layer = Number(cell.dataset.layer);
        const handle = Math.abs(layer - first.value) <= Math.abs(layer - last.value) ? first : last;
        handle.value = layer;
        moved(handle);
      });
    });
    if (choice) { choice.addEventListener("change", show); }
    box.style.setProperty("--layers", String(data.layers));
    box.hidden = false;
    choose(whole);
  });
})();
