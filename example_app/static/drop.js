// The page works without this script: forms upload and delete, links open and download. The script adds drag and drop,
// progress, previews and share links. User-supplied text is set as textContent only; the page's policy enforces that.

const find = (selector, root = document) => root.querySelector(selector);
const dropzone = find("#dropzone");
const chooser = find("#chooser");
const csrfToken = find("meta[name=csrf-token]").content;
const maxSize = Number(dropzone.dataset.maxSize);

// -- texts ------------------------------------------------------------------------------------------------------------

const CONNECTION_LOST = "The connection was lost. The file was not stored.";
// Another origin may hide its response from scripts; then a refusal looks like a lost connection.
const LOST_OR_REFUSED = "The connection was lost, or the storage refused the file. It was not stored. Try again.";
const LIST_NOT_UPDATED = "The list could not be updated. Reload the page to see what is stored.";
const UPLOAD_ERRORS = {
  403: "The permission to upload has expired. Try again.",
  409: "Another file already has this name. Try again.",
  412: "Another file already has this name. Try again.",
  413: "The file is too large.",
  503: "The storage is unavailable. The file was not stored. Try again in a moment.",
  507: "The storage is full. Delete some files and try again.",
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

const relativeFormat = new Intl.RelativeTimeFormat("en-GB", { numeric: "auto", style: "short" });
const dayFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const minuteFormat = new Intl.DateTimeFormat("en-GB", { weekday: "short", hour: "numeric", minute: "2-digit" });
const fullFormat = new Intl.DateTimeFormat("en-GB", { dateStyle: "full", timeStyle: "medium" });

function relative(date) {
  const minutes = Math.round((date - Date.now()) / 60_000);
  if (Math.abs(minutes) < 1) return "just now";
  if (Math.abs(minutes) < 60) return relativeFormat.format(minutes, "minute");
  if (Math.abs(minutes) < 24 * 60) return relativeFormat.format(Math.round(minutes / 60), "hour");
  if (Math.abs(minutes) < 7 * 24 * 60) return relativeFormat.format(Math.round(minutes / 60 / 24), "day");
  return dayFormat.format(date);
}

function updateTimes() {
  for (const time of document.querySelectorAll(".row time")) {
    const date = new Date(time.dateTime);
    time.textContent = relative(date);
    time.title = fullFormat.format(date);
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

// -- requests to the app ----------------------------------------------------------------------------------------------

class Problem extends Error {}

async function postJson(url, body) {
  let response;
  try {
    response = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", "Accept": "application/json", "X-CSRF-Token": csrfToken },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Problem("The connection was lost. Try again.");
  }
  const result = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(result.error ?? `The server reported error ${response.status}. Try again.`);
  return result;
}

// Only the template renders the list. To update it, the script loads the page and replaces the list with the new one.
function loadPage() {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open("GET", location.pathname + location.search);
    xhr.responseType = "document";
    xhr.onload = () => {
      if (xhr.status === 200 && xhr.response) resolve(xhr.response);
      else reject(new Problem(LIST_NOT_UPDATED));
    };
    xhr.onerror = () => reject(new Problem(LIST_NOT_UPDATED));
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
    if (known) row.replaceWith(known); // keeps the loaded thumbnail
    else row.classList.add("is-new");
  }
  find("#files-section").replaceChildren(...section.childNodes);
  find("#summary").textContent = find("#summary", page).textContent;
  updateTimes();
  if (focused.isConnected) focused.focus({ preventScroll: true });
}

let refreshing = Promise.resolve();
function refreshSoon() {
  refreshing = refreshing.then(refresh).catch((problem) => toast(problem.message));
  return refreshing;
}

// -- uploads ----------------------------------------------------------------------------------------------------------

const MAX_CONCURRENT_UPLOADS = 2;
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
    this.showStatus("Waiting");
  }

  showStatus(text) {
    find(".row-meta", this.row).textContent = text;
  }

  async run() {
    this.showStatus("Starting");
    const presigned = await postJson(dropzone.dataset.uploads, { name: this.file.name, size: this.file.size });
    if (!this.cancelled) await this.send(presigned);
    if (!this.cancelled) await postJson(dropzone.dataset.done, { upload_token: presigned.upload_token });
  }

  send({ method, url, headers, fields }) {
    return new Promise((resolve, reject) => {
      const xhr = (this.xhr = new XMLHttpRequest());
      xhr.upload.onprogress = ({ loaded, total }) => this.showProgress(loaded, total);
      xhr.onload = () => {
        if (xhr.status >= 200 && xhr.status < 300) resolve();
        else reject(new Problem(UPLOAD_ERRORS[xhr.status] ?? `The upload failed with error ${xhr.status}. Try again.`));
      };
      xhr.onerror = () => {
        reject(new Problem(new URL(url).origin === location.origin ? CONNECTION_LOST : LOST_OR_REFUSED));
      };
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

  showProgress(loaded, total) {
    const fraction = total ? loaded / total : 1;
    this.bar.value = fraction;
    this.showStatus(
      fraction < 1
        ? `${Math.floor(fraction * 100)}% · ${filesize(Math.min(loaded, this.file.size))} of ${filesize(this.file.size)}`
        : "Storing",
    );
    const quarter = Math.floor(fraction * 4) * 25;
    if (quarter > (this.announced ?? 0) && quarter < 100) {
      this.announced = quarter;
      announce(`${this.file.name}: ${quarter}%`);
    }
  }

  fail(text, { canRetry = true } = {}) {
    this.row.classList.add("has-failed");
    this.bar.hidden = true;
    this.retryButton.hidden = !canRetry;
    this.cancelButton.setAttribute("aria-label", `Dismiss ${this.file.name}`);
    this.cancelButton.title = "Dismiss";
    this.failed = true;
    this.showStatus(text);
    announce(`${this.file.name}: ${text}`);
  }

  retry() {
    const next = new Upload(this.file);
    this.row.replaceWith(next.row);
    next.cancelButton.focus();
    waiting.push(next);
    startUploads();
  }

  cancel() {
    this.cancelled = true;
    const index = waiting.indexOf(this);
    if (index >= 0) waiting.splice(index, 1);
    this.xhr?.abort();
    if (!this.failed) toast(`Cancelled. ${this.file.name} was not stored.`);
    this.remove();
    startUploads();
  }

  remove() {
    const hadFocus = this.row.contains(document.activeElement);
    this.row.remove();
    find("#uploads-section").hidden = find("#uploads").children.length === 0;
    if (hadFocus) (find("#uploads button:not([hidden])") ?? chooser).focus();
  }
}

function startUploads() {
  while (running.size < MAX_CONCURRENT_UPLOADS && waiting.length) {
    const upload = waiting.shift();
    running.add(upload);
    upload
      .run()
      .then(async () => {
        if (upload.cancelled) return;
        await refreshSoon();
        upload.remove();
        finished.push(upload.file.name);
      })
      .catch((problem) => {
        if (upload.cancelled) return;
        if (!(problem instanceof Problem)) throw problem;
        upload.fail(problem.message);
      })
      .finally(() => {
        running.delete(upload);
        startUploads();
      });
  }
  if (!running.size && !waiting.length && finished.length) {
    toast(finished.length === 1 ? `${finished[0]} is uploaded` : `${finished.length} files are uploaded`);
    finished = [];
  }
}

function addUploads(files) {
  if (!files.length) return;
  find("#uploads-section").hidden = false;
  announce(files.length === 1 ? `Uploading ${files[0].name}` : `Uploading ${files.length} files`);
  for (const file of files) {
    const upload = new Upload(file);
    if (file.size > maxSize) {
      const limit = filesize(maxSize);
      upload.fail(`Too large: ${filesize(file.size)}. A file may have up to ${limit}.`, { canRetry: false });
    } else {
      waiting.push(upload);
    }
  }
  startUploads();
}

chooser.addEventListener("change", () => {
  addUploads([...chooser.files]);
  chooser.value = "";
});
dropzone.addEventListener("submit", (event) => event.preventDefault());
addEventListener("beforeunload", (event) => {
  if (running.size || waiting.length) event.preventDefault();
});

// -- drag and drop, anywhere on the page ------------------------------------------------------------------------------

let dragDepth = 0; // dragenter and dragleave fire for every element under the pointer
const canDrop = (event) => event.dataTransfer?.types.includes("Files") && !find("dialog[open]");
const setDragDepth = (depth) => {
  dragDepth = Math.max(0, depth);
  dropzone.classList.toggle("is-target", dragDepth > 0);
};
addEventListener("dragenter", (event) => canDrop(event) && setDragDepth(dragDepth + 1));
addEventListener("dragleave", (event) => canDrop(event) && setDragDepth(dragDepth - 1));
addEventListener("dragover", (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault());
addEventListener("drop", (event) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault(); // otherwise the browser opens the file instead of the page
  setDragDepth(0);
  if (find("dialog[open]")) return;
  const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
  const folders = items.filter((item) => item.webkitGetAsEntry?.()?.isDirectory);
  if (folders.length) toast("Folders cannot be uploaded. Drop the files inside instead.");
  addUploads(items.filter((item) => !folders.includes(item)).map((item) => item.getAsFile()));
});

// -- actions on a file ------------------------------------------------------------------------------------------------

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

// A thumbnail that the browser cannot show is removed, so that the icon of the file type is visible.
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
      await postJson(`${url}?confirmed=yes`, {});
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
    const { url, expires_at, once } = await postJson(shared.dataset.share, { lifetime });
    const until = new Date(expires_at);
    resetShare();
    shareLink.value = url;
    find(".share-make", shareDialog).hidden = true;
    find(".share-result", shareDialog).hidden = false;
    find(".share-expiry", shareDialog).textContent = once
      ? `Works for one download, until ${minuteFormat.format(until)}. A chat app that loads a preview counts as one.`
      : `Works until ${minuteFormat.format(until)}, for everyone who has it.`;
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
    // Without HTTPS, scripts have no access to the clipboard: select the link, so that the user can copy it.
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
const MAX_TEXT_PREVIEW = 262_144; // bytes

function showNote(text) {
  const paragraph = document.createElement("p");
  paragraph.className = "note";
  paragraph.textContent = text;
  stage.replaceChildren(paragraph);
}

async function showText(url) {
  const box = document.createElement("pre");
  box.tabIndex = 0; // so that the keyboard can scroll it
  try {
    const response = await fetch(url, { headers: { Range: `bytes=0-${MAX_TEXT_PREVIEW - 1}` } });
    if (response.status !== 416 && !response.ok) throw new Problem();
    const bytes = response.status === 416 ? new ArrayBuffer() : await response.arrayBuffer();
    box.textContent = new TextDecoder().decode(bytes);
    if (!box.textContent) return showNote("The file is empty.");
    if (bytes.byteLength === MAX_TEXT_PREVIEW) box.append("\n\n… The preview ends here. Download the file to read the rest.");
  } catch {
    return showNote("The file could not be loaded. It may have been deleted.");
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
    view.addEventListener("error", () => showNote("This browser cannot show the file. Download it instead."));
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

updateTimes();
setInterval(updateTimes, 60_000);
