// The page is complete without this script; it adds the filter of rows.
(function () {
  const form = document.getElementById("filter");
  if (!form) { return; }
  const box = form.querySelector("input");
  const count = form.querySelector("output");
  const rows = Array.from(document.querySelectorAll(".listed tbody tr"));
  const texts = rows.map(function (row) { return row.textContent.toLowerCase(); });
  form.hidden = false;
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  box.addEventListener("input", function () {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach(function (row, index) {
      const keep = words.every(function (word) { return texts[index].includes(word); });
      row.hidden = !keep;
      shown += keep ? 1 : 0;
    });
    count.textContent = words.length ? shown + " of " + rows.length + " rows" : "";
  });
})();
