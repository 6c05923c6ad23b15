// Shows openapi.json as a page: what it says, in its order.

const content = document.querySelector("main");
const contents = document.querySelector("nav");

const api = await read();
const { schemas, responses, securitySchemes } = api.components;
const objects = Object.keys(schemas).filter((name) => schemas[name].properties);

content.replaceChildren();
document.querySelector("#about").append(...told(api.info.description));
for (const tag of api.tags) {
  const those = operations().filter(({ tags }) => tags.includes(tag.name));
  const links = those.map(({ operationId, summary }) => [operationId, summary.split(" · ")[0]]);
  chapter(`${tag.name} · ${tag.description}`, links, those.map(endpoint));
}
const toObjects = objects.map((name) => [name, name]);
chapter("对象 · Objects", toObjects, objects.map(object));
chapter("错误 · Errors", [["errors", "全部错误"]], errors());
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();

async function read() {
  try {
    const answer = await fetch("openapi.json");
    if (answer.ok) return await answer.json();
    throw new Error(answer.status);
  } catch (error) {
    content.replaceChildren(make("p", { role: "alert" }, "没有读到接口文档，请刷新重试。"));
    throw error;
  }
}

// What is shown

function chapter(title, links, articles) {
  content.append(make("section", {}, make("h2", {}, titled(title)), articles));
  const items = links.map(([id, name]) => make("li", {}, make("a", { href: `#${id}` }, name)));
  contents.append(make("h2", {}, titled(title)), make("ul", {}, items));
}

function operations() {
  return Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      ...operation,
      method: method.toUpperCase(),
      path,
    })),
  );
}

function endpoint(operation) {
  const { operationId, method, path, summary, description, requestBody, responses } = operation;
  const url = new URL(`.${path}`, location.href).href;
  const taken = requestBody && json(requestBody);
  const { 200: done, ...refusals } = responses;
  const badge = make("span", { class: "method" }, method);
  const place = make("span", { class: "url" }, badge, ` ${path}`);
  return make(
    "article",
    { id: operationId },
    make("h3", {}, place, titled(summary)),
    description ? make("div", {}, told(description)) : [],
    operation.security ? make("div", {}, caller(operation.security)) : [],
    taken ? [make("h4", {}, titled("请求 · request")), fields(taken.schema, true)] : [],
    code("curl", curl(url, taken?.example)),
    code("wx.request", wxRequest(url, method, taken?.example)),
    make("h4", {}, titled("回答 · answer")),
    fields(json(done).schema),
    code("JSON", lines(json(done).example)),
    make("h4", {}, titled("错误 · errors")),
    make("ul", { class: "errors" }, Object.values(refusals).flatMap(refusal)),
  );
}

/** The first way to say who one is: the others are not for clients. */
function caller([way]) {
  const [name] = Object.keys(way);
  return told(securitySchemes[name].description);
}

function refusal(response) {
  return Object.entries(json(response).examples).map(([error, { summary }]) =>
    make("li", {}, make("a", { href: `#${error}` }, failure(summary))),
  );
}

function object(name) {
  const head = make("h3", {}, make("code", {}, name));
  return make("article", { id: name }, head, fields(schemas[name], name === "Failure"));
}

function errors() {
  const all = Object.values(responses).flatMap((each) => Object.entries(json(each).examples));
  const examples = new Map(all);
  const rows = schemas.Failure.properties.error.enum.map((error) => {
    const { summary, description } = examples.get(error);
    return row({ id: error }, failure(summary), told(description));
  });
  const shown = table(["状态与 error · status and error", "说明 · what it is"], rows);
  return make("article", { id: "errors" }, shown);
}

function failure(summary) {
  const [status, error] = summary.split(" ");
  return [make("span", { class: "status" }, status), " ", make("code", {}, error)];
}

/** The fields of an object; what is required is told where not all are. */
function fields(schema, someAreOptional = false) {
  const rows = Object.entries(schema.properties).map(([name, value]) => {
    const required = schema.required.includes(name) ? "必填 required" : "可选 optional";
    const first = [make("code", {}, name), someAreOptional ? make("small", {}, required) : []];
    const list = value.items?.$ref && last(value.items.$ref);
    const link = objects.includes(list) ? make("a", { href: `#${list}` }, list) : [];
    const { description } = value.description ? value : schemas[last(value.$ref)];
    return row({}, first, [told(description), link]);
  });
  return table(["字段 · field", "说明 · what it is"], rows);
}

// Examples

function curl(url, taken) {
  if (!taken) return `curl ${url}`;
  return `curl -d '${JSON.stringify(taken).replaceAll("'", "'\\''")}' ${url}`;
}

function wxRequest(url, method, taken) {
  const options = [`url: '${url}'`, `method: '${method}'`];
  if (taken) options.push(`data: ${lines(taken).replaceAll("\n", "\n  ")}`);
  options.push(`success({ data }) {
    if (data.response_code !== 1) wx.showToast({ title: data.detail, icon: 'none' })
  }`);
  return `wx.request({\n${options.map((each) => `  ${each},\n`).join("")}})`;
}

/** JSON in lines, but a list of plain values in one. */
function lines(value) {
  const plain = /\[[^[\]{}]*\]/g;
  return JSON.stringify(value, null, 2).replace(plain, (list) => list.replace(/\n */g, " "));
}

// The document

/** The JSON of a request or response, or of what it refers to. */
function json(part) {
  return (part.$ref ? responses[last(part.$ref)] : part).content["application/json"];
}

function last(reference) {
  return reference.split("/").pop();
}

// Elements

/** An element with children; whatever text they hold is shown as text. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat(Infinity));
  return element;
}

/** A text in Chinese, and after a blank line the same in English. */
function told(text) {
  const [chinese, english] = text.split("\n\n");
  const marked = english.split("`").map((part, odd) => (odd % 2 ? make("code", {}, part) : part));
  return [make("div", {}, chinese), make("div", { lang: "en" }, marked)];
}

/** A title in Chinese, and after a dot the same in English. */
function titled(text) {
  const [chinese, english] = text.split(" · ");
  return [chinese, " ", make("span", { lang: "en" }, english)];
}

function table(heads, rows) {
  const cells = heads.map((head) => make("th", { scope: "col" }, titled(head)));
  const head = make("thead", {}, make("tr", {}, cells));
  return make("table", {}, head, make("tbody", {}, rows));
}

function row(attributes, first, second) {
  const head = make("th", { scope: "row" }, first);
  return make("tr", attributes, head, make("td", {}, second));
}

function code(label, text) {
  const caption = make("figcaption", {}, label);
  if (navigator.clipboard) {
    const button = make("button", { type: "button", "aria-label": `复制 ${label}` }, "复制");
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      button.textContent = "已复制";
    });
    caption.append(button);
  }
  return make("figure", {}, caption, make("pre", {}, make("code", {}, text)));
}
