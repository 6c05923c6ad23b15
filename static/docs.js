/** Shows openapi.json as a page, in its order and with its texts as they are. */

import { make } from "./dom.js";

const content = document.querySelector("main");
const contents = document.querySelector("nav");

let api, schemas, responses, securitySchemes, objects; // of openapi.json

start();

async function start() {
  api = await fetchDocument();
  ({ schemas, responses, securitySchemes } = api.components);
  objects = Object.keys(schemas).filter((name) => schemas[name].properties);
  const operations = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ ...operation, method, path })),
  );

  content.replaceChildren();
  document.querySelector("#about").append(textBlock(api.info.description));
  for (const { name } of api.tags) {
    const chapter = operations.filter(({ tags }) => tags.includes(name));
    const links = chapter.map(({ operationId, summary }) => [operationId, summary]);
    addChapter(name, links, chapter.map(endpointArticle));
  }
  addChapter("对象", objects.map((name) => [name, name]), objects.map(objectArticle));
  addChapter("错误", [["errors", "全部错误"]], [errorsArticle()]);
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

async function fetchDocument() {
  try {
    const answer = await fetch("openapi.json");
    if (answer.ok) return await answer.json();
    throw new Error(answer.status);
  } catch (error) {
    content.replaceChildren(make("p", { role: "alert" }, "没有读到接口文档，请刷新重试。"));
    throw error;
  }
}

// Chapters

function addChapter(title, links, articles) {
  content.append(make("section", {}, make("h2", {}, title), articles));
  const items = links.map(([id, text]) => make("li", {}, make("a", { href: `#${id}` }, text)));
  contents.append(make("h2", {}, title), make("ul", {}, items));
}

function endpointArticle(operation) {
  const { operationId, path, summary, description, requestBody, security } = operation;
  const method = operation.method.toUpperCase();
  const url = new URL(`.${path}`, location.href).href;
  const request = requestBody && json(requestBody);
  const { 200: success, ...failures } = operation.responses;
  const answer = json(success);
  const badge = make("span", { className: "method" }, method);
  return make(
    "article",
    { id: operationId },
    make("h3", {}, make("span", { className: "url" }, badge, ` ${path}`), summary),
    description ? textBlock(description) : "",
    security ? textBlock(securitySchemes.bearer.description) : "",
    request ? [make("h4", {}, "请求"), fieldTable(request.schema, true)] : "",
    code("curl", curl(url, request?.example)),
    code("wx.request", wxRequest(url, method, request?.example)),
    make("h4", {}, "回答"),
    fieldTable(answer.schema),
    code("JSON", lines(answer.example)),
    make("h4", {}, "错误"),
    make("ul", { className: "errors" }, Object.entries(failures).flatMap(errorLinks)),
  );
}

function errorLinks([status, response]) {
  return Object.keys(json(response).examples).map((error) =>
    make("li", {}, make("a", { href: `#${error}` }, make("code", {}, `${status} ${error}`))),
  );
}

function objectArticle(name) {
  const head = make("h3", {}, make("code", {}, name));
  return make("article", { id: name }, head, fieldTable(schemas[name], name === "Failure"));
}

function errorsArticle() {
  const all = Object.values(responses).flatMap((each) => Object.entries(json(each).examples));
  const rows = [...new Map(all)].map(([error, { summary, description }]) =>
    row({ id: error }, make("code", {}, summary), textBlock(description)),
  );
  return make("article", { id: "errors" }, table(["状态与 error", "说明"], rows));
}

/** The fields of an object. `hasOptional` adds to each whether it is required. */
function fieldTable({ properties, required }, hasOptional = false) {
  const rows = Object.entries(properties).map(([name, property]) => {
    const need = make("small", {}, required.includes(name) ? "必填" : "可选");
    const item = property.items?.$ref?.split("/").pop();
    return row(
      {},
      [make("code", {}, name), hasOptional ? need : ""],
      [
        textBlock(property.description ?? resolve(property).description),
        objects.includes(item) ? make("a", { href: `#${item}` }, item) : "",
      ],
    );
  });
  return table(["字段", "说明"], rows);
}

// Examples

function curl(url, fields) {
  if (!fields) return `curl ${url}`;
  return `curl -d '${JSON.stringify(fields).replaceAll("'", "'\\''")}' ${url}`;
}

function wxRequest(url, method, fields) {
  const options = [`url: '${url}'`, `method: '${method}'`];
  if (fields) options.push(`data: ${lines(fields).replaceAll("\n", "\n  ")}`);
  options.push(`success({ data }) {
    if (data.response_code !== 1) wx.showToast({ title: data.detail, icon: 'none' })
  }`);
  return `wx.request({\n${options.map((each) => `  ${each},\n`).join("")}})`;
}

/** JSON in lines, but an array of plain values in one line. */
function lines(value) {
  const plainArray = /\[[^[\]{}]*\]/g;
  return JSON.stringify(value, null, 2).replace(plainArray, (array) => array.replace(/\n */g, " "));
}

// The document

function json(part) {
  return resolve(part).content["application/json"];
}

/** A part of the document, or what it refers to as `#/components/KIND/NAME`. */
function resolve(part) {
  const { $ref } = part.anyOf?.[0] ?? part; // an optional field may also be null
  if (!$ref) return part;
  const [kind, name] = $ref.split("/").slice(-2);
  return api.components[kind][name];
}

// Elements

function textBlock(text) {
  return make("div", { className: "text" }, text);
}

function table(heads, rows) {
  const cells = heads.map((head) => make("th", { scope: "col" }, head));
  const head = make("thead", {}, make("tr", {}, cells));
  return make("table", {}, head, make("tbody", {}, rows));
}

function row(properties, first, second) {
  return make("tr", properties, make("th", { scope: "row" }, first), make("td", {}, second));
}

function code(label, text) {
  const example = make("code", {}, text);
  const button = make("button", { type: "button", "aria-label": `复制 ${label}` }, "复制");
  button.addEventListener("click", async () => {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copySelected(example); // browsers have the clipboard only with HTTPS and on 127.0.0.1
    button.textContent = "已复制";
  });
  return make("figure", {}, make("figcaption", {}, label, button), make("pre", {}, example));
}

function copySelected(element) {
  getSelection().selectAllChildren(element);
  document.execCommand("copy");
}
