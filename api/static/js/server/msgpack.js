// MessagePack as the server writes results: nil, booleans, numbers, strings, binary, arrays, maps. No extension types.
// https://github.com/msgpack/msgpack/blob/master/spec.md

const text = new TextDecoder("utf-8", { fatal: true });
const SHORT = 32; // bytes
const NAMES = 4096; // hashes, a power of two

/**
 * Decode one document. Throws an Error where it is not valid. Binary values are views into `buffer`.
 * @param {ArrayBuffer} buffer
 * @returns {any}
 */
export function decode(buffer) {
  const view = new DataView(buffer);
  const data = new Uint8Array(buffer);
  let at = 0;
  /** The last short text with each hash, and where it was. @type {{begin: number, size: number, string: string}[]} */
  const names = new Array(NAMES);

  /** @param {number} size  bytes */
  const take = (size) => {
    if (at + size > view.byteLength) throw new Error("The MessagePack document is truncated.");
    at += size;
    return at - size;
  };
  /**
   * @param {"Uint8" | "Uint16" | "Uint32" | "Int8" | "Int16" | "Int32" | "Float32" | "Float64"} kind
   * @param {number} size  bytes
   */
  const read = (kind, size) => view[/** @type {const} */ (`get${kind}`)](take(size));
  /** @param {"BigUint64" | "BigInt64"} kind */
  const long = (kind) => Number(view[/** @type {const} */ (`get${kind}`)](take(8)));
  /** @param {number} size */
  const bytes = (size) => new Uint8Array(buffer, take(size), size);
  /** @param {number} size */
  const string = (size) => (size <= SHORT ? shortString(size) : text.decode(bytes(size)));
  /**
   * Short texts are names that occur again and again, several hundred thousand times in a long sound of many classes: one that
   * was decoded before is taken from `names`.
   * @param {number} size
   */
  const shortString = (size) => {
    const begin = take(size);
    let hash = size;
    for (let i = begin; i < at; i += 1) hash = (31 * hash + data[i]) & (NAMES - 1);
    const name = names[hash];
    if (name?.size === size) {
      let i = 0;
      while (i < size && data[begin + i] === data[name.begin + i]) i += 1;
      if (i === size) return name.string;
    }
    const string = text.decode(new Uint8Array(buffer, begin, size));
    names[hash] = { begin, size, string };
    return string;
  };
  /** @param {number} size */
  const array = (size) => {
    const values = [];
    for (let i = 0; i < size; i += 1) values.push(value());
    return values;
  };
  /** @param {number} size */
  const map = (size) => {
    /** @type {Record<string, unknown>} */
    const entries = {};
    for (let i = 0; i < size; i += 1) {
      const key = String(value());
      if (key === "__proto__") throw new Error("The MessagePack document has a key that is not supported.");
      entries[key] = value();
    }
    return entries;
  };
  /** @type {Record<number, () => unknown>} */
  // prettier-ignore
  const wide = {
    0xc0: () => null, 0xc2: () => false, 0xc3: () => true,
    0xc4: () => bytes(read("Uint8", 1)), 0xc5: () => bytes(read("Uint16", 2)), 0xc6: () => bytes(read("Uint32", 4)),
    0xca: () => read("Float32", 4), 0xcb: () => read("Float64", 8),
    0xcc: () => read("Uint8", 1), 0xcd: () => read("Uint16", 2), 0xce: () => read("Uint32", 4), 0xcf: () => long("BigUint64"),
    0xd0: () => read("Int8", 1), 0xd1: () => read("Int16", 2), 0xd2: () => read("Int32", 4), 0xd3: () => long("BigInt64"),
    0xd9: () => string(read("Uint8", 1)), 0xda: () => string(read("Uint16", 2)), 0xdb: () => string(read("Uint32", 4)),
    0xdc: () => array(read("Uint16", 2)), 0xdd: () => array(read("Uint32", 4)),
    0xde: () => map(read("Uint16", 2)), 0xdf: () => map(read("Uint32", 4)),
  };

  /** @returns {unknown} */
  function value() {
    const kind = data[take(1)];
    if (kind === 0xcb) return view.getFloat64(take(8)); // the most frequent of the wide ones
    if (kind < 0x80) return kind;
    if (kind < 0x90) return map(kind & 0x0f);
    if (kind < 0xa0) return array(kind & 0x0f);
    if (kind < 0xc0) return string(kind & 0x1f);
    if (kind >= 0xe0) return kind - 0x100;
    if (!(kind in wide)) throw new Error(`MessagePack type 0x${kind.toString(16)} is not supported.`);
    return wide[kind]();
  }

  const document = value();
  if (at !== view.byteLength) throw new Error("The MessagePack document has trailing bytes.");
  return document;
}
