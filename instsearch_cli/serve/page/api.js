// The service: its token, its answers, its problems.

/** What the service, or its absence, has to say to people. */
class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

let lost = 0; // requests that nobody answered

function offline() {
  lost += 1;
  return new Problem(0, "The service does not answer: is the command that opened this page still running?");
}

/** The token from the link, kept for this tab only and taken out of the address bar. */
const token = (() => {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  try {
    if (given) sessionStorage.setItem("token", given);
    if (given) history.replaceState(null, "", location.pathname + location.search);
    return given ?? sessionStorage.getItem("token") ?? "";
  } catch {
    return given ?? "";
  }
})();

async function call(path, { body, json, accept, signal, method } = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  if (json !== undefined) headers["Content-Type"] = "application/json";
  if (accept) headers.Accept = accept;
  const content = json !== undefined ? JSON.stringify(json) : body;
  const before = lost;
  let response;
  try {
    response = await fetch(path, { method: method ?? (content === undefined ? "GET" : "POST"), headers, body: content, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw offline();
  }
  if (before === lost) forget("offline"); // an answer to what was sent before is no news of the service
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const refused = "This link is not valid any more: open the address that the command printed.";
  throw new Problem(response.status, response.status === 401 ? refused : (problem.detail ?? problem.title ?? `The service says ${response.status}`));
}

const callJson = async (path, options) => (await call(path, options)).json();

/** The objects of a stream of JSON lines, as they come. */
async function* jsonLines(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done: ended } = await reader.read();
      const lines = (rest + (value ?? "")).split("\n");
      rest = ended ? "" : lines.pop();
      for (const line of lines) if (line.trim()) yield JSON.parse(line);
      if (ended) return;
    }
  } catch (error) {
    if (signal?.aborted || error.name === "AbortError") return;
    throw error instanceof SyntaxError ? new Problem(500, "The service's answer broke off.") : offline();
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Show what went wrong; `again` is tried at the press of a button where nobody answered. */
function complain(error, again) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) {
    console.error(error);
    notice("problem", "Something went wrong on this page. Your last step can be tried again.");
    return;
  }
  const deed = again && { text: "Try again", act: () => (forget("offline"), again()) };
  if (error.status === 0) notice("offline", error.message, deed);
  else notice("problem", error.message);
}

/** Hand a file of the service over to the person. */
async function download(path, options, fallback) {
  const response = await call(path, options);
  const disposition = response.headers.get("Content-Disposition") ?? "";
  const coded = /filename\*=(?:UTF-8'')([^;]+)/i.exec(disposition);
  const plain = /filename="?([^";]+)"?/i.exec(disposition);
  const address = URL.createObjectURL(await response.blob());
  const link = make("a", { href: address, download: coded ? decodeURIComponent(coded[1]) : plain ? plain[1] : fallback });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}
