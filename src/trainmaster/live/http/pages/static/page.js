// Keeps what carries data-live as it is on the server, and appends to the log what the job writes. All text goes in as text.
"use strict";

const EVERY_MS = 2500, KEPT_CHARACTERS = 400000;
const fresh = document.getElementById("fresh");

async function refresh() {
  if (document.hidden || !document.querySelector("[data-live]")) return;
  try {
    const answer = await fetch(location.href, { redirect: "error", cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const old of document.querySelectorAll("[data-live]")) {
      const now = page.getElementById(old.id);
      if (now && now.innerHTML !== old.innerHTML && !old.contains(document.activeElement)) old.replaceWith(now);
    }
    fresh.textContent = "";
    document.documentElement.dataset.refreshed = Number(document.documentElement.dataset.refreshed || 0) + 1;
  } catch {
    fresh.textContent = "not up to date: the controller does not answer";
  }
}

async function follow(log) {
  const answer = await fetch(log.dataset.stream, { redirect: "error", cache: "no-store" });
  if (!answer.ok) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const text = log.appendChild(document.createTextNode(""));
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const atEnd = log.scrollTop + log.clientHeight > log.scrollHeight - 30;
    text.appendData(part.value);
    if (text.length > KEPT_CHARACTERS) text.deleteData(0, text.length - KEPT_CHARACTERS);
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}

setInterval(refresh, EVERY_MS);
const log = document.getElementById("log");
if (log) follow(log).catch(() => { fresh.textContent = "the log's connection has ended: load the page again"; });
