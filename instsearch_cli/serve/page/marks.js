// Right and wrong: a marked hit becomes a further view of the object, or of what it is not.

const markedPlace = (hit) => state.pictures.findIndex((one) => one.mark && same(one.ref, hitRef(hit)));

/** Mark a hit, or take its mark away where it has this one already, and ask again. */
function mark(hit, against) {
  const at = markedPlace(hit);
  const marked = at >= 0 && signOf(state.pictures[at]) === against;
  change(() => {
    const { key } = picture();
    if (at >= 0) state.pictures.splice(at, 1);
    if (!marked) {
      const boxes = hit.box ? [hit.box] : [];
      const { image: name, size } = hit;
      state.pictures.push(newPicture({ ...hitRef(hit), name, size, boxes, against, mark: true }));
    }
    state.current = Math.max(0, state.pictures.findIndex((one) => one.key === key));
  });
  say(marked ? "Mark taken away" : `Marked ${against ? "wrong" : "right"}; asked again`);
}

/** The marks on the hits that are shown. */
function showMarks() {
  if (!state.answer) return;
  for (const card of cards.values()) {
    const at = markedPlace(card.hit);
    const not = at >= 0 && signOf(state.pictures[at]);
    card.right.setAttribute("aria-pressed", String(at >= 0 && !not));
    card.wrong.setAttribute("aria-pressed", String(at >= 0 && not));
    card.item.classList.toggle("marked-wrong", at >= 0 && not);
    card.item.classList.toggle("marked-right", at >= 0 && !not);
  }
  showLightMarks();
}
