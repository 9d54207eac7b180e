"use strict";
const groups = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const chosen = new Set();

function element(kind, properties, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}

function tell() {
  const count = chosen.size;
  byId("chosen").textContent = count === 1 ? "1 file chosen" : `${count} files chosen`;
  byId("save").disabled = count === 0;
}

function card(member) {
  const box = element("input", { type: "checkbox", checked: chosen.has(member.file) });
  box.addEventListener("change", () => {
    chosen[box.checked ? "add" : "delete"](member.file);
    tell();
  });
  const size = `${member.width} × ${member.height} px, ${(member.bytes / 1024).toFixed(0)} KB`;
  const tie = member.original
    ? "largest of the group"
    : `${member.score.toFixed(2)}, ${member.reason}, with ${member.tied_to}`;
  const parts = [element("label", {}, box, " ", member.file), element("div", { className: "note" }, size), element("div", {}, tie)];
  if (member.picture) parts.unshift(element("img", { src: member.picture, alt: "" }));
  return element("article", { className: member.original ? "member original" : "member" }, ...parts);
}

function shownMembers(group, least) {
  const rest = group.filter((member) => member.original || member.score >= least);
  return rest.length > 1 ? rest : [];
}

function draw() {
  const least = Number(byId("least").value);
  byId("shown").textContent = least.toFixed(2);
  const cards = groups.map((group) => shownMembers(group, least)).filter((group) => group.length);
  byId("groups").replaceChildren(
    ...cards.map((group) =>
      element("section", { className: "group" },
        element("h3", {}, `Group ${group[0].group}: ${group.length} files`),
        element("div", { className: "members" }, ...group.map(card)))),
  );
  tell();
}

byId("least").addEventListener("input", draw);
byId("choose").addEventListener("click", () => {
  const least = Number(byId("least").value);
  for (const group of groups)
    for (const member of shownMembers(group, least)) if (!member.original) chosen.add(member.file);
  draw();
});
byId("clear").addEventListener("click", () => { chosen.clear(); draw(); });
byId("save").addEventListener("click", () => {
  const list = [...chosen].sort().join("\n") + "\n";
  const link = element("a", { download: "chosen.txt", href: URL.createObjectURL(new Blob([list])) });
  link.click();
  URL.revokeObjectURL(link.href);
});
draw();
