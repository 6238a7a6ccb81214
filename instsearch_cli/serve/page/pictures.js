// Pictures of the service as blob: addresses, a few at a time and the latest kept.

const KEPT = 400; // blob addresses, the least lately shown are given back
const AT_ONCE = 4; // so that a question finds a free connection
const blobs = new Map();
const waiting = [];
let loading = 0;

function picturePath(ref, side) {
  if (ref.upload) return `/v1/pictures/${encodeURIComponent(ref.upload)}?side=${side}`;
  return `/v1/indexes/${ref.index}/images/${ref.row}?side=${side}`;
}

/** The blob: address of a picture, loaded once; urgent ones go before those that wait. */
function pictureBlob(path, urgent = false) {
  const kept = blobs.get(path);
  if (kept) {
    blobs.delete(path);
    blobs.set(path, kept);
    return kept;
  }
  const promise = new Promise((resolve, reject) => {
    waiting[urgent ? "unshift" : "push"]({ path, resolve, reject });
  });
  blobs.set(path, promise);
  promise.catch(() => blobs.delete(path));
  for (const [old, address] of blobs) {
    if (blobs.size <= KEPT) break;
    blobs.delete(old);
    address.then(URL.revokeObjectURL, () => {});
  }
  loadNext();
  return promise;
}

function loadNext() {
  while (loading < AT_ONCE && waiting.length) {
    const { path, resolve, reject } = waiting.shift();
    loading += 1;
    call(path)
      .then((response) => response.blob())
      .then((blob) => resolve(URL.createObjectURL(blob)), reject)
      .finally(() => {
        loading -= 1;
        loadNext();
      });
  }
}

/** Show a picture in an img; what it showed stays until the new one is there. Resolves when it can be seen. */
async function showPicture(img, path, urgent = true) {
  img.dataset.path = path;
  try {
    const address = await pictureBlob(path, urgent);
    if (img.dataset.path !== path) return false;
    if (img.getAttribute("src") !== address) {
      img.src = address;
      await img.decode().catch(() => {});
    }
    img.classList.remove("missing");
    return img.dataset.path === path;
  } catch {
    if (img.dataset.path !== path) return false;
    img.removeAttribute("src");
    img.classList.add("missing");
    return false;
  }
}

const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      showPicture(target, target.dataset.wanted, false);
    }
  },
  { rootMargin: "500px" },
);

/** Show a picture once it is about to be scrolled into sight. */
function showLater(img, path) {
  if (img.dataset.wanted === path) return;
  img.dataset.wanted = path;
  near.observe(img);
}

/** The aspect of a picture's frame, as pages of hits have it; panoramas get a calmer one. */
const aspect = (size) => (size ? clamp(size[0] / size[1], 0.56, 2.6) : 1);

/** Boxes as crisp lines over a picture, in pixels of the original, with a shade around them. */
function drawBoxes(overlay, size, boxes, not = () => false) {
  overlay.replaceChildren();
  if (!size) return;
  overlay.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
  let holes = `M0 0H${size[0]}V${size[1]}H0Z`;
  for (const [x, y, w, h] of boxes) holes += `M${x} ${y}V${y + h}H${x + w}V${y}Z`;
  if (boxes.length) overlay.append(shape("path", { class: "around", d: holes }));
  for (const kind of ["edge", "box"]) {
    boxes.forEach(([x, y, width, height], i) => overlay.append(shape("rect", { class: not(i) && kind === "box" ? "box not" : kind, x, y, width, height })));
  }
}
