/** Remembers for this tab or for all; where the browser keeps nothing, as long as the page lasts. */

const here = {};

/** What is remembered in sessionStorage or localStorage; undefined if there is nothing. */
export function recall(storage, name) {
  try {
    return JSON.parse(window[storage].getItem(name)) ?? undefined;
  } catch {
    return here[name];
  }
}

export function remember(storage, name, value) {
  here[name] = value;
  try {
    window[storage].setItem(name, JSON.stringify(value));
  } catch {
    // Whoever blocks what sites keep can use the page all the same.
  }
}
