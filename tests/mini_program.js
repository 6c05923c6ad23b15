// A stand-in for WeChat's runtime, which records the calls of the mini-program's code to it.

const timers = new Set()
const calls = []
const storage = {}
const INTERVAL = 5000 // milliseconds: the pages' own timers, and no others, wait for tick()
let waiting = 0, lost = 0, token, code = 'code-ming'

globalThis.wx = {
  login: async () => ({ code }),
  async request({ url, method, data, header, success, fail }) {
    calls.push(`${method} ${new URL(url).pathname}`)
    if (token && header.Authorization) header = { Authorization: `Bearer ${token}` }
    const body = data && JSON.stringify(data)
    waiting++
    const answer = await fetch(url, { method, body, headers: header })
    const result = {
      statusCode: answer.status,
      header: Object.fromEntries(answer.headers),
      data: await answer.json()
    }
    waiting--
    if (lost-- > 0) fail({ errMsg: 'request:fail' })
    else success(result)
  },
  getStorageSync: name => storage[name] ?? '',
  setStorageSync: (name, value) => { storage[name] = value },
  clearStorageSync: () => Object.keys(storage).forEach(name => delete storage[name]),
  showToast: ({ title }) => calls.push(`toast ${title}`)
}
const { setTimeout: realSetTimeout, clearTimeout: realClearTimeout } = globalThis
globalThis.setTimeout = (action, delay, ...rest) => {
  if (delay !== INTERVAL) return realSetTimeout(action, delay, ...rest)
  timers.add(action)
  return action
}
globalThis.clearTimeout = timer => timers.delete(timer) || realClearTimeout(timer)

/** What the code of a page gives to Page(). */
function load(file) {
  let page
  globalThis.Page = definition => { page = definition }
  require(file)
  page.setData = data => { page.data = { ...page.data, ...data } }
  return page
}

/** Wait until no request is under way, and none has followed from an answer. */
async function settle() {
  do await new Promise(resolve => setImmediate(resolve))
  while (waiting)
}

/** Let every timer that is waiting run, and settle. */
async function tick() {
  const due = [...timers]
  timers.clear()
  due.forEach(action => action())
  await settle()
}

module.exports = {
  calls, storage, timers, load, settle, tick,
  lose: count => { lost = count },
  holdToken: value => { token = value },
  useCode: value => { code = value }
}
