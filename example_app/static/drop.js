// The page works without this file: forms upload and delete, links open and save. With it come drag and drop, progress,
// previews and share links. Text from outside is only ever set as text, and the page's policy refuses anything else.

const find = (selector, root = document) => root.querySelector(selector);
const dropzone = find("#dropzone");
const chooser = find("#chooser");
const csrfToken = find("meta[name=csrf-token]").content;
const maxSize = Number(dropzone.dataset.maxSize);

// -- words ------------------------------------------------------------------------------------------------------------

const BROKEN = "The connection broke. Nothing was stored.";
// Another host may hide its answer from scripts; then a refusal looks like a broken line.
const BROKEN_OR_REFUSED = "The connection broke, or the storage refused. Nothing was stored. Try again.";
const REFUSALS = {
  403: "The permission to upload ran out. Try again.",
  409: "Another file got this name. Try again.",
  412: "Another file got this name. Try again.",
  413: "The file is too large.",
  503: "The storage does not answer. Nothing was stored. Try again in a moment.",
  507: "The storage is full. Delete something and try again.",
};

function filesize(size) {
  if (size < 1000) return size === 1 ? "1 byte" : `${size} bytes`;
  let unit = -1;
  do {
    size /= 1000;
    unit += 1;
  } while (size >= 999.5 && unit < 3);
  return `${size < 99.95 ? size.toFixed(1).replace(".0", "") : size.toFixed(0)} ${["kB", "MB", "GB", "TB"][unit]}`;
}

const ago = new Intl.RelativeTimeFormat("en-GB", { numeric: "auto", style: "short" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const minute = new Intl.DateTimeFormat("en-GB", { weekday: "short", hour: "numeric", minute: "2-digit" });
const exactly = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "medium" });

function relative(date) {
  const minutes = Math.round((date - Date.now()) / 60_000);
  if (Math.abs(minutes) < 1) return "just now";
  if (Math.abs(minutes) < 60) return ago.format(minutes, "minute");
  if (Math.abs(minutes) < 24 * 60) return ago.format(Math.round(minutes / 60), "hour");
  if (Math.abs(minutes) < 7 * 24 * 60) return ago.format(Math.round(minutes / 60 / 24), "day");
  return day.format(date);
}

function tellTimes() {
  for (const time of document.querySelectorAll(".row time")) {
    const date = new Date(time.dateTime);
    time.textContent = relative(date);
    time.title = exactly.format(date);
  }
}

let toastTimer;
function toast(text) {
  clearTimeout(toastTimer);
  find("#toast").textContent = text;
  toastTimer = setTimeout(() => find("#toast").replaceChildren(), 6000);
}

function announce(text) {
  find("#progress-status").textContent = text;
}

// -- talking to the app -----------------------------------------------------------------------------------------------

class Problem extends Error {}

async function ask(url, body) {
  let response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", "Accept": "application/json", "X-CSRF-Token": csrfToken },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Problem("The connection broke. Try again.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(answer.error ?? `The server answered with ${response.status}. Try again.`);
  return answer;
}

// The list is drawn in one place, the template. A new one is taken out of the page as it would be now.
function loadPage() {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open("GET", location.pathname);
    xhr.responseType = "document";
    xhr.onload = () => (xhr.status === 200 && xhr.response ? resolve(xhr.response) : reject(new Problem(BROKEN)));
    xhr.onerror = () => reject(new Problem("The connection broke. Reload the page to see what is stored."));
    xhr.send();
  });
}

async function refresh() {
  const page = await loadPage();
  const focused = document.activeElement;
  const old = new Map([...document.querySelectorAll("#files > .row")].map((row) => [row.dataset.path, row]));
  const section = document.importNode(find("#files-section", page), true);
  for (const row of section.querySelectorAll("#files > .row")) {
    const known = old.get(row.dataset.path);
    if (known) row.replaceWith(known); // keeps its thumbnail on the screen
    else row.classList.add("is-new");
  }
  find("#files-section").replaceChildren(...section.childNodes);
  find("#summary").textContent = find("#summary", page).textContent;
  tellTimes();
  if (focused.isConnected) focused.focus({ preventScroll: true });
}

let refreshing = Promise.resolve();
function refreshSoon() {
  refreshing = refreshing.then(refresh).catch((problem) => toast(problem.message));
  return refreshing;
}

// -- uploads ----------------------------------------------------------------------------------------------------------

const AT_ONCE = 2;
const waiting = [];
const running = new Set();
let finished = [];

class Upload {
  constructor(file) {
    this.file = file;
    this.row = find("#upload-row").content.firstElementChild.cloneNode(true);
    this.bar = find("progress", this.row);
    this.retryButton = find("[data-action=retry]", this.row);
    this.cancelButton = find("[data-action=cancel]", this.row);
    find("bdi", this.row).textContent = file.name;
    this.bar.setAttribute("aria-label", `Progress of ${file.name}`);
    this.retryButton.setAttribute("aria-label", `Try ${file.name} again`);
    this.cancelButton.setAttribute("aria-label", `Cancel ${file.name}`);
    this.retryButton.onclick = () => this.retry();
    this.cancelButton.onclick = () => this.cancel();
    find("#uploads").append(this.row);
    this.say("Waiting");
  }

  say(text) {
    find(".row-meta", this.row).textContent = text;
  }

  async run() {
    this.say("Starting");
    const instruction = await ask(dropzone.dataset.uploads, { name: this.file.name, size: this.file.size });
    if (!this.cancelled) await this.send(instruction);
    if (!this.cancelled) await ask(dropzone.dataset.done, { upload_token: instruction.upload_token });
  }

  send({ method, url, headers, fields }) {
    return new Promise((resolve, reject) => {
      const xhr = (this.xhr = new XMLHttpRequest());
      xhr.upload.onprogress = ({ loaded, total }) => this.show(loaded, total);
      xhr.onload = () => {
        if (xhr.status >= 200 && xhr.status < 300) resolve();
        else reject(new Problem(REFUSALS[xhr.status] ?? `The server answered with ${xhr.status}. Nothing was stored.`));
      };
      xhr.onerror = () => reject(new Problem(new URL(url).origin === location.origin ? BROKEN : BROKEN_OR_REFUSED));
      xhr.onabort = () => resolve();
      xhr.open(method, url);
      for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
      if (Object.keys(fields).length === 0) {
        xhr.send(this.file);
      } else {
        const form = new FormData();
        for (const [name, value] of Object.entries(fields)) form.append(name, value);
        form.append("file", this.file);
        xhr.send(form);
      }
    });
  }

  show(loaded, total) {
    const share = total ? loaded / total : 1;
    this.bar.value = share;
    this.say(
      share < 1
        ? `${Math.floor(share * 100)}% · ${filesize(Math.min(loaded, this.file.size))} of ${filesize(this.file.size)}`
        : "Storing",
    );
    const quarter = Math.floor(share * 4) * 25;
    if (quarter > (this.told ?? 0) && quarter < 100) {
      this.told = quarter;
      announce(`${this.file.name}: ${quarter}%`);
    }
  }

  fail(text, { again = true } = {}) {
    this.row.classList.add("has-failed");
    this.bar.hidden = true;
    this.retryButton.hidden = !again;
    this.cancelButton.setAttribute("aria-label", `Dismiss ${this.file.name}`);
    this.cancelButton.title = "Dismiss";
    this.failed = true;
    this.say(text);
    announce(`${this.file.name}: ${text}`);
  }

  retry() {
    const next = new Upload(this.file);
    this.row.replaceWith(next.row);
    next.cancelButton.focus();
    waiting.push(next);
    work();
  }

  cancel() {
    this.cancelled = true;
    const place = waiting.indexOf(this);
    if (place >= 0) waiting.splice(place, 1);
    this.xhr?.abort();
    if (!this.failed) toast(`Cancelled. Nothing of ${this.file.name} was stored.`);
    this.leave();
    work();
  }

  leave() {
    const hadFocus = this.row.contains(document.activeElement);
    this.row.remove();
    find("#uploads-section").hidden = find("#uploads").children.length === 0;
    if (hadFocus) (find("#uploads button:not([hidden])") ?? chooser).focus();
  }
}

function work() {
  while (running.size < AT_ONCE && waiting.length) {
    const upload = waiting.shift();
    running.add(upload);
    upload
      .run()
      .then(async () => {
        if (upload.cancelled) return;
        await refreshSoon();
        upload.leave();
        finished.push(upload.file.name);
      })
      .catch((problem) => {
        if (upload.cancelled) return;
        if (!(problem instanceof Problem)) throw problem;
        upload.fail(problem.message);
      })
      .finally(() => {
        running.delete(upload);
        work();
      });
  }
  if (!running.size && !waiting.length && finished.length) {
    toast(finished.length === 1 ? `${finished[0]} is uploaded` : `${finished.length} files are uploaded`);
    finished = [];
  }
}

function take(files) {
  if (!files.length) return;
  find("#uploads-section").hidden = false;
  announce(files.length === 1 ? `Uploading ${files[0].name}` : `Uploading ${files.length} files`);
  for (const file of files) {
    const upload = new Upload(file);
    if (file.size > maxSize) {
      upload.fail(`Too large: ${filesize(file.size)}. A file may have up to ${filesize(maxSize)}.`, { again: false });
    } else {
      waiting.push(upload);
    }
  }
  work();
}

chooser.addEventListener("change", () => {
  take([...chooser.files]);
  chooser.value = "";
});
dropzone.addEventListener("submit", (event) => event.preventDefault());
addEventListener("beforeunload", (event) => {
  if (running.size || waiting.length) event.preventDefault();
});

// -- drag and drop, anywhere on the page ------------------------------------------------------------------------------

let depth = 0; // dragenter and dragleave come for every element on the way
const brings = (event) => event.dataTransfer?.types.includes("Files") && !find("dialog[open]");
const aim = (change) => {
  depth = Math.max(0, change);
  dropzone.classList.toggle("is-target", depth > 0);
};
addEventListener("dragenter", (event) => brings(event) && aim(depth + 1));
addEventListener("dragleave", (event) => brings(event) && aim(depth - 1));
addEventListener("dragover", (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault());
addEventListener("drop", (event) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault(); // else the browser leaves the page for the file
  aim(0);
  if (find("dialog[open]")) return;
  const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
  const folders = items.filter((item) => item.webkitGetAsEntry?.()?.isDirectory);
  if (folders.length) toast("Folders cannot be uploaded. Drop the files in them.");
  take(items.filter((item) => !folders.includes(item)).map((item) => item.getAsFile()));
});

// -- what one can do with a file --------------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const row = event.target.closest("#files > .row");
  if (!row) return;
  if (event.target.closest("[data-action=share]")) {
    openShare(row);
  } else if (event.target.closest(".row-name") && row.dataset.preview) {
    if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    openPreview(row);
  }
});

document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-action=delete]")) return;
  event.preventDefault();
  openDelete(event.target.closest(".row"), event.target.action);
});

for (const button of document.querySelectorAll("dialog [data-action=close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}

// Thumbnails that a browser cannot draw give way to the picture of their kind.
document.addEventListener("error", (event) => event.target.matches?.(".tile img") && event.target.remove(), true);

// -- delete -----------------------------------------------------------------------------------------------------------

const deleteDialog = find("#delete-dialog");

function openDelete(row, url) {
  find("bdi", deleteDialog).textContent = row.dataset.name;
  deleteDialog.returnValue = "keep";
  deleteDialog.showModal();
  deleteDialog.onclose = async () => {
    if (deleteDialog.returnValue !== "delete") return;
    try {
      await ask(`${url}?confirmed=yes`, {});
    } catch (problem) {
      toast(problem.message);
      return;
    }
    const neighbour = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    await refreshSoon();
    (find("[data-action=delete] button", neighbour ?? document.createElement("p")) ?? find("#files-title")).focus();
    toast(`${row.dataset.name} is deleted`);
  };
}

// -- share ------------------------------------------------------------------------------------------------------------

const shareDialog = find("#share-dialog");
const shareLink = find("#share-link");
const copyButton = find("[data-action=copy]", shareDialog);
let shared;

function resetShare() {
  find(".share-make", shareDialog).hidden = false;
  find(".share-result", shareDialog).hidden = true;
  find(".problem", shareDialog).hidden = true;
  find(".share-expiry", shareDialog).textContent = "";
  copyButton.textContent = "Copy";
}

function openShare(row) {
  shared = row;
  find(".sheet-subject bdi", shareDialog).textContent = row.dataset.name;
  resetShare();
  shareDialog.showModal();
  find("[name=lifetime]:checked", shareDialog).focus();
}

async function makeLink() {
  try {
    const lifetime = find("[name=lifetime]:checked", shareDialog).value;
    const { url, expires_at, once } = await ask(shared.dataset.share, { lifetime });
    const until = new Date(expires_at);
    resetShare();
    shareLink.value = url;
    find(".share-make", shareDialog).hidden = true;
    find(".share-result", shareDialog).hidden = false;
    find(".share-expiry", shareDialog).textContent = once
      ? `Works for one download, until ${minute.format(until)}. A chat that fetches a preview uses it up.`
      : `Works until ${minute.format(until)}, for everyone who has it.`;
    copyButton.focus();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    find(".problem", shareDialog).textContent = problem.message;
    find(".problem", shareDialog).hidden = false;
  }
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(shareLink.value);
    copyButton.textContent = "Copied";
  } catch {
    // Without https browsers keep the clipboard to themselves: select the link, and the person copies.
    shareLink.select();
    copyButton.textContent = "Selected";
  }
}

find("form", shareDialog).addEventListener("submit", (event) => {
  event.preventDefault();
  if (find(".share-result", shareDialog).hidden) makeLink();
  else copyLink();
});
find(".choices", shareDialog).addEventListener("change", resetShare);
copyButton.addEventListener("click", copyLink);

// -- preview ----------------------------------------------------------------------------------------------------------

const previewDialog = find("#preview-dialog");
const stage = find("#stage");
const TEXT_SHOWN = 262_144;

function note(text) {
  const paragraph = document.createElement("p");
  paragraph.className = "note";
  paragraph.textContent = text;
  stage.replaceChildren(paragraph);
}

async function showText(url) {
  const box = document.createElement("pre");
  box.tabIndex = 0; // a keyboard scrolls it
  try {
    const response = await fetch(url, { headers: { Range: `bytes=0-${TEXT_SHOWN - 1}` } });
    if (response.status !== 416 && !response.ok) throw new Problem();
    const bytes = response.status === 416 ? new ArrayBuffer() : await response.arrayBuffer();
    box.textContent = new TextDecoder().decode(bytes);
    if (!box.textContent) return note("The file is empty.");
    if (bytes.byteLength === TEXT_SHOWN) box.append("\n\n… the file goes on. Download it to read the rest.");
  } catch {
    return note("The file could not be loaded. It may have been deleted.");
  }
  stage.replaceChildren(box);
}

function openPreview(row) {
  const { open, name, preview } = row.dataset;
  previewDialog.dataset.preview = preview;
  find("bdi", previewDialog).textContent = name;
  find("[data-action=open]", previewDialog).href = open;
  find("[data-action=download]", previewDialog).href = find(".row-actions a", row).href;
  if (preview === "text") {
    stage.replaceChildren();
    showText(open);
  } else {
    const view = document.createElement({ image: "img", pdf: "iframe" }[preview] ?? preview);
    view.addEventListener("error", () => note("This browser cannot show the file. Download it instead."));
    if (preview === "image") view.alt = name;
    else view.title = name;
    if (preview === "video" || preview === "audio") {
      view.controls = true;
      view.playsInline = true;
      view.preload = "metadata";
    }
    view.src = open;
    stage.replaceChildren(view);
  }
  previewDialog.showModal();
}

previewDialog.addEventListener("close", () => {
  find("video, audio", stage)?.pause();
  stage.replaceChildren();
});

tellTimes();
setInterval(tellTimes, 60_000);
