// Keeps the page that is open up to date: one event stream tells when, the same page is fetched again, and what differs
// is changed in place, so that focus, scrolling and an open list stay. Without it every page works, a reload at a time.
"use strict";

const live = document.getElementById("live");
let busy = false;
let again = false;
let etag = "";

function sameKind(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName;
}

function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old.isEqualNode(fresh) || old.hasAttribute("data-keep") || old === document.activeElement) return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, place) => {
    const there = before[place];
    if (there === undefined) old.append(document.importNode(node, true));
    else if (sameKind(there, node)) morph(there, node);
    else there.replaceWith(document.importNode(node, true));
  });
  before.slice(after.length).forEach((node) => node.remove());
}

async function refresh() {
  if (document.hidden) return;
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    const headers = { Accept: "text/html", ...(etag ? { "If-None-Match": etag } : {}) };
    const answer = await fetch(document.body.dataset.reload, { headers, cache: "no-store", credentials: "same-origin" });
    // A machine that is no longer in nodes.yml: the page that says so takes the place of what it told last.
    if (answer.status === 200 || answer.status === 404) {
      etag = answer.headers.get("ETag") || "";
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      morph(document.getElementById("main"), page.getElementById("main"));
      morph(live.querySelector("time"), page.querySelector("#live time"));
      document.title = page.title;
      document.dispatchEvent(new Event("refreshed"));
    }
  } catch {
    // The stream says whether the hub is gone.
  } finally {
    busy = false;
    if (again) {
      again = false;
      refresh();
    }
  }
}

function listen() {
  const stream = new EventSource("/api/v1/events");
  stream.addEventListener("state", () => {
    live.classList.add("on");
    live.classList.remove("lost");
    live.title = "Live";
    refresh();
  });
  stream.addEventListener("error", () => {
    live.classList.replace("on", "lost");
    live.title = "The hub does not answer: what is shown is of the time that is shown";
  });
  // A page in the background keeps no connection.
  addEventListener("pagehide", () => stream.close(), { once: true });
}

document.addEventListener("visibilitychange", refresh);
document.addEventListener("change", (event) => {
  const form = event.target.closest("form.filters");
  if (form && event.target.nodeName === "SELECT") form.requestSubmit();
});
document.addEventListener("submit", (event) => {
  // What is not asked for does not stand in the address.
  for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
});
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const field of document.querySelectorAll("form.filters [disabled]")) field.disabled = false;
  listen();
});
listen();
