"use strict";
for (const figure of document.querySelectorAll("figure")) {
  const marks = figure.querySelectorAll(".m"), readout = figure.querySelector(".readout");
  const plot = figure.querySelector(".wide");
  let at = -1;
  const show = (mark) => {
    if (at >= 0) marks[at].classList.remove("on");
    at = Array.prototype.indexOf.call(marks, mark);
    if (at < 0) return;
    mark.classList.add("on");
    readout.textContent = mark.querySelector("title").textContent;
  };
  plot.addEventListener("pointerover", (event) => {
    const mark = event.target.closest(".m");
    if (mark) show(mark);
  });
  // Bars stand side by side: the pointer need not hit a low one.
  if (figure.className === "bars") plot.addEventListener("pointermove", (event) => {
    const box = plot.firstElementChild.getBoundingClientRect();
    const mark = marks[Math.floor((event.clientX - box.left) / box.width * marks.length)];
    if (mark) show(mark);
  });
  plot.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: marks.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const mark = marks[Math.min(Math.max(to, 0), marks.length - 1)];
    show(mark);
    mark.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}
// What is folded away on the screen is printed.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
