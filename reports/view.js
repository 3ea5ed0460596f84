// The page is complete without this script; it keeps the progress up to date.
(function () {
  const line = document.getElementById("at-work");
  const rest = document.getElementById("progress");
  if (!line) { return; }
  window.setInterval(function () {
    fetch("/progress").then(function (answer) { return answer.json(); }).then(function (lines) {
      line.textContent = lines.length ? lines[0] : "no run with a journal is here";
      rest.textContent = lines.slice(1).join("\n");
    }).catch(function () {
      line.textContent = "the server has ended; start it again with ltm-eval view";
    });
  }, 3000);
})();
