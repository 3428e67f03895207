// The browser's database of this page (IndexedDB): a record for each sound. Where there is none, as in some private windows,
// nothing is kept and nothing fails.

/**
 * @typedef {object} VersionRecord  of a sound, or of an edited version of it
 * @property {string} name
 * @property {File | null} file
 * @property {import("../server/types.js").Job | null} job
 * @property {import("../server/types.js").Result | null} result
 * @property {import("./sound.js").Share | null} [share]
 *
 * @typedef {VersionRecord & RecordOfSound} SoundRecord
 *
 * @typedef {object} RecordOfSound
 * @property {string} key
 * @property {number} stored       when, in milliseconds since 1970
 * @property {number} position     in the list, the smallest at the bottom
 * @property {number} bytes        about, of file and results
 * @property {string | null} linkedId
 * @property {string | null} idempotencyKey
 * @property {VersionRecord[]} versions  the edited ones
 * @property {number} edits        how many of them are applied
 * @property {boolean} showsOriginal
 */

const [NAME, STORE] = ["otoscope", "sounds"];

/** @type {Promise<IDBDatabase | null> | null} */
let opened = null;

/** @returns {Promise<IDBDatabase | null>} */
function open() {
  opened ??= new Promise((resolve) => {
    try {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "key" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = request.onblocked = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opened;
}

/**
 * @template Value
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest<Value>} use
 * @returns {Promise<Value | null>} null where it failed: no database, or no room left
 */
async function request(mode, use) {
  const database = await open();
  if (!database) return null;
  return new Promise((resolve) => {
    try {
      const transaction = database.transaction(STORE, mode);
      const asked = use(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(asked.result);
      transaction.onerror = transaction.onabort = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
}

/** @returns {Promise<SoundRecord[]>} */
export const loadRecords = async () => (await request("readonly", (store) => store.getAll())) ?? [];

/**
 * @param {SoundRecord} record
 * @returns {Promise<boolean>} whether it is stored
 */
export const storeRecord = async (record) => (await request("readwrite", (store) => store.put(record))) !== null;

/** @param {string} key */
export const deleteRecord = (key) => request("readwrite", (store) => store.delete(key));

export const deleteRecords = () => request("readwrite", (store) => store.clear());
