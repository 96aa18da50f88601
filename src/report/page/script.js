"use strict";
for (const figure of document.querySelectorAll("figure")) {
  const plot = figure.querySelector(".wide"), readout = figure.querySelector(".readout");
  // Bars have a line of titles each and one frame that stands around the chosen one; other marks have a title of their own.
  const titles = plot.dataset.titles?.split("\n"), frame = figure.querySelector(".mark");
  const marks = figure.querySelectorAll(".m"), count = titles ? titles.length : marks.length;
  let at = -1;
  const show = (index) => {
    if (!(index >= 0 && index < count)) return;
    if (titles) {
      frame.setAttribute("x", index * frame.getAttribute("width"));
      frame.setAttribute("visibility", "visible");
    } else {
      marks[at]?.classList.remove("on");
      marks[index].classList.add("on");
    }
    at = index;
    readout.textContent = titles ? titles[at] : marks[at].querySelector("title").textContent;
  };
  plot.addEventListener(titles ? "pointermove" : "pointerover", (event) => {
    if (!titles) return show(Array.prototype.indexOf.call(marks, event.target.closest(".m")));
    // The pointer need not hit a low bar.
    const box = plot.firstElementChild.getBoundingClientRect();
    show(Math.floor((event.clientX - box.left) / box.width * count));
  });
  plot.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: count - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(Math.min(Math.max(to, 0), count - 1));
    (titles ? frame : marks[at]).scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}
// What is folded away on the screen is printed.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
