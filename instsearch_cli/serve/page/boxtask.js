// `instsearch box IMAGE`: only the picture, and one button that hands the boxes to the command.

function showUse() {
  if (!state.info.task) return;
  const n = picture()?.boxes.length ?? 0;
  $("use").disabled = !n;
  $("use").textContent = n > 1 ? `Use these ${n} boxes` : "Use this box";
}

function startBoxTask() {
  document.body.classList.add("box-task");
  $("use").hidden = false;
  on($("use"), "click", async () => {
    try {
      await call("/v1/box", { json: { boxes: picture().boxes.map(rounded) } });
      state.pictures = [];
      $("use").hidden = true;
      $("work").replaceChildren(make("p", { class: "none" }, "The box is where you asked for it. This page can be closed."));
      say("Done");
    } catch (error) {
      complain(error);
    }
  });
  state.pictures = [newPicture(state.info.task.picture)];
  showState();
}
