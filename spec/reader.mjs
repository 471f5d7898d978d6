// A third reader, of bytes and indexes alone (rules R1 to R54 but R12, R63 to R67): tvq.md, sections 5 and 6.
// usage: node reader.mjs FILE...   prints a JSON line per file: its root digest, or the rule it breaks

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

class Refused extends Error {
  constructor(rule, message) {
    super(`R${rule}: ${message}`);
    this.rule = rule;
  }
}

const require = (rule, condition, message) => {
  if (!condition) throw new Refused(rule, message);
};
const sha256 = (...chunks) => {
  const hash = createHash("sha256");
  for (const chunk of chunks) hash.update(chunk);
  return hash.digest("hex");
};
const aligned = (length) => Math.ceil(length / 8) * 8;

const CRC_TABLE = Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n >>> 0;
});
const crc32 = (data) => {
  let crc = 0xffffffff;
  for (const byte of data) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 255];
  return ~crc >>> 0;
};

// 5 bytes

const INDEX_MAX = 2 ** 26;

function readFile(data) {
  require(1, data.subarray(0, 8).toString("hex") === "895456510d0a1a0a", "no .tvq file");
  require(5, data.length >= 136, "cut");
  require(2, data.readUInt16LE(8) === 1, "major version");
  require(3, data.readUInt32LE(12) === 0, "unknown required features");
  require(4, data.subarray(16, 64).every((byte) => byte === 0), "reserved bytes");
  const end = data.length - 72;
  const trailer = data.subarray(end);
  require(5, trailer.subarray(64).toString("latin1") === "TVQ1END\n", "no end magic");
  require(6, trailer.readUInt32LE(56) === crc32(trailer.subarray(0, 56)), "trailer checksum");
  require(7, trailer.readUInt32LE(60) === 0, "trailer field is not zero");
  const [at, length, size] = [0, 8, 16].map((place) => Number(trailer.readBigUInt64LE(place)));
  require(8, size === data.length, "file length");
  require(9, 1 <= length && length <= INDEX_MAX, "length of the root index");
  require(9, at >= 64 && at % 8 === 0 && at + aligned(length) === end, "place of the root index");
  const rootBytes = unpadded(data, at, length);
  const digest = trailer.subarray(24, 56).toString("hex");
  require(11, sha256(data.subarray(0, 64), rootBytes) === digest, "root digest");
  const root = readRoot(rootBytes, at);
  let place = 64;
  const vectors = new Map();
  if (root.shared) {
    const index = readGroup(data, place, root.shared, (bytes) =>
      readIndex(bytes, root.base, new Map(), true),
    );
    for (const entry of index.entries) vectors.set(entry.p, (vectors.get(entry.p) ?? 0) + 1);
    place += total(root.shared);
  }
  let sections = 0;
  const tasks = [];
  for (const task of root.tasks) {
    tasks.push(readGroup(data, place, task.group, (bytes) => readIndex(bytes, root.base, vectors)));
    sections += tasks.at(-1).sections.length;
    place += total(task.group);
  }
  let blobs = [];
  if (root.companions) {
    blobs = readGroup(data, place, root.companions, readBlobs).sections;
    place += total(root.companions);
  }
  checkBlobs(blobs, tasks);
  const gram = unpadded(data, place, root.gramLength);
  require(16, sha256(gram) === root.gramSha || gram.length === 0, "gram digest");
  return { root: digest, tasks: root.tasks.map((task) => task.name), sections };
}

function unpadded(data, at, length) {
  const padding = data.subarray(at + length, at + aligned(length));
  require(10, padding.every((byte) => byte === 0), "padding is not zero");
  return data.subarray(at, at + length);
}

const total = (group) => group.sectionsLength + aligned(group.indexLength);

function readGroup(data, at, group, read) {
  const bytes = unpadded(data, at + group.sectionsLength, group.indexLength);
  require(14, sha256(bytes) === group.sha256, "index digest");
  const index = read(bytes);
  const length = index.sections.reduce((sum, section) => sum + aligned(section.length), 0);
  require(15, length === group.sectionsLength, "length of the sections");
  require(17, sha256(data.subarray(at, at + length)) === index.digest, "group digest");
  for (const section of index.sections) {
    require(16, crc32(unpadded(data, at, section.length)) === section.crc, "section checksum");
    at += aligned(section.length);
  }
  return index;
}

// 6 indexes: spelling. Integers become BigInt, floats Number, binary hexadecimal in a Binary.

class Binary {
  constructor(hex) {
    this.hex = hex;
  }
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function unpack(data) {
  let at = 0;
  let containers = 0;
  const take = (count) => {
    require(19, at + count <= data.length, "index ends early");
    at += count;
    return data.subarray(at - count, at);
  };
  const unsigned = (width) => BigInt("0x" + take(width).toString("hex"));
  const head = (width, least) => {
    const number = unsigned(width);
    require(20, number >= least, "a long form of a short number");
    return number;
  };
  const text = (length) => {
    require(18, length <= 65536, "text too long");
    const bytes = take(Number(length));
    try {
      return UTF8.decode(bytes);
    } catch {
      throw new Refused(19, "text is not UTF-8");
    }
  };
  const binary = (length) => {
    require(18, length <= 32, "binary too long");
    return new Binary(take(Number(length)).toString("hex"));
  };
  const enter = (count, depth) => {
    containers += 1;
    require(18, count <= 2 ** 18 && depth < 8, "array or map too long or too deep");
    require(18, containers <= 2 ** 22, "too many arrays and maps");
  };
  const array = (count, depth) => {
    enter(count, depth);
    return Array.from({ length: Number(count) }, () => value(depth + 1));
  };
  const map = (count, depth) => {
    enter(count, depth);
    const out = new Map();
    for (let n = 0; n < count; n++) {
      const key = value(depth + 1);
      require(22, typeof key === "string", "a key is not text");
      require(20, !out.has(key), "a key comes twice");
      out.set(key, value(depth + 1));
    }
    return out;
  };
  const value = (depth) => {
    const byte = take(1)[0];
    if (byte < 0x80) return BigInt(byte);
    if (byte < 0x90) return map(byte & 15, depth);
    if (byte < 0xa0) return array(byte & 15, depth);
    if (byte < 0xc0) return text(byte & 31);
    if (byte >= 0xe0) return BigInt(byte - 256);
    if (byte === 0xc0) return null;
    if (byte === 0xc1) throw new Refused(19, "byte C1");
    if (byte <= 0xc3) return byte === 0xc3;
    if (byte <= 0xc6) return binary(head(2 ** (byte - 0xc4), [0, 2 ** 8, 2 ** 16][byte - 0xc4]));
    if (byte <= 0xc9) throw new Refused(18, "an extension type");
    if (byte === 0xca) return take(4).readFloatBE();
    if (byte === 0xcb) throw new Refused(20, "a float of 8 bytes");
    if (byte <= 0xcf) {
      return head(2 ** (byte - 0xcc), [2 ** 7, 2 ** 8, 2 ** 16, 2 ** 32][byte - 0xcc]);
    }
    if (byte <= 0xd3) {
      const width = 2 ** (byte - 0xd0);
      const number = BigInt.asIntN(8 * width, unsigned(width));
      const below = [-32, -(2 ** 7), -(2 ** 15), -(2 ** 31)][byte - 0xd0];
      require(20, number < below, "a long form of a short number");
      return number;
    }
    if (byte <= 0xd8) throw new Refused(18, "an extension type");
    if (byte <= 0xdb) return text(head(2 ** (byte - 0xd9), [32, 2 ** 8, 2 ** 16][byte - 0xd9]));
    const [width, least] = byte & 1 ? [4, 2 ** 16] : [2, 16];
    return (byte <= 0xdd ? array : map)(head(width, least), depth);
  };
  const out = value(0);
  require(19, at === data.length, "bytes behind the index");
  return out;
}

// 6 indexes: fields

const U32 = 2n ** 32n - 1n;
const U48 = 2n ** 48n - 1n;
const COUNT_MAX = 2n ** 40n - 1n;
const WIDTHS = { float64: 8, float32: 4, float16: 2, bfloat16: 2, int64: 8, int32: 4 };
Object.assign(WIDTHS, { int16: 2, int8: 1, uint8: 1, bool: 1 });
const FORBIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;
const TASK = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?$/;
const DEVICE = /^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)/i;

const listed = (value) => {
  require(22, Array.isArray(value), "not an array");
  return value;
};
const fields = (value, count) => {
  require(22, listed(value).length === count, `not an array of ${count}`);
  return value;
};
const integer = (value, most, least = 0, rule = 23) => {
  require(22, typeof value === "bigint", "not an integer");
  require(rule, value >= least && value <= most, `${value} is not in ${least}..${most}`);
  return Number(value);
};
const real = (value) => {
  require(22, typeof value === "number", "not a float");
  require(24, Number.isFinite(value), "not finite");
  return value;
};
const magnitude = (value) => {
  real(value);
  require(25, value > 0 || Object.is(value, 0), "negative");
};
const digest = (value) => {
  require(22, value instanceof Binary && value.hex.length === 64, "not 32 bytes");
  return value.hex;
};
const textual = (value) => {
  require(22, typeof value === "string", "not text");
  return value;
};
const printable = (value, rule) => {
  const length = [...textual(value)].length;
  const good = !FORBIDDEN.test(value) && value.normalize("NFC") === value;
  require(rule, 1 <= length && length <= 512 && good, "name");
  return value;
};
// Code points in order, which UTF-16 units are not.
const before = (a, b) =>
  typeof a === "string" ? Buffer.compare(Buffer.from(a), Buffer.from(b)) < 0 : a < b;
const increasing = (values, rule, strictly = true) => {
  for (let n = 1; n < values.length; n++) {
    const fine = before(values[n - 1], values[n]) || (!strictly && values[n - 1] === values[n]);
    require(rule, fine, "not sorted");
  }
};
const metadata = (value) => {
  require(22, value instanceof Map, "not a map");
  require(28, value.size <= 1024, "too many keys");
  increasing([...value.keys()], 28);
  for (const [key, text] of value) printable(key, 28), textual(text);
};
const dtypeName = (value) => {
  require(29, Object.hasOwn(WIDTHS, textual(value)), "dtype");
  return value;
};
const product = (dims) => dims.reduce((all, dim) => all * BigInt(dim), 1n);
const dimensions = (value) => {
  const dims = listed(value).map((dim) => integer(dim, U48, 0, 30));
  require(30, dims.length <= 8 && product(dims.map((dim) => dim || 1)) <= COUNT_MAX, "dimensions");
  return dims;
};
const keyed = (value, keys, optional = "") => {
  require(22, value instanceof Map, "not a map");
  const left = (key) => optional.split(" ").includes(key) && !value.has(key);
  const wanted = keys.split(" ").filter((key) => !left(key));
  require(21, [...value.keys()].join(" ") === wanted.join(" "), "keys");
  return (key) => value.get(key);
};

// 6 indexes: root

function readRoot(data, at) {
  const names = "base_model companions gram_length gram_sha256 metadata shared tasks";
  const key = keyed(unpack(data), names, "companions");
  const base = listed(key("base_model")).map((value) => {
    const [name, dtype, dims, sha, crc] = fields(value, 5);
    printable(name, 26);
    const parameter = { name, dtype: dtypeName(dtype), dims: dimensions(dims) };
    digest(sha), integer(crc, U32);
    return { ...parameter, count: Number(product(parameter.dims)) };
  });
  increasing(base.map((parameter) => parameter.name), 31);
  const tasks = listed(key("tasks")).map((value) => {
    const [name, sections, index, sha, norm, error] = fields(value, 6);
    require(27, TASK.test(textual(name)) && !DEVICE.test(name), "task name");
    const group = readLengths(sections, index, sha);
    magnitude(norm), magnitude(error);
    return { name, group };
  });
  increasing(tasks.map((task) => task.name), 32);
  const folded = new Set(tasks.map((task) => task.name.toLowerCase()));
  require(32, folded.size === tasks.length, "names differ in case");
  const gramLength = integer(key("gram_length"), U48);
  const gramSha = digest(key("gram_sha256"));
  require(34, [0, 2 * tasks.length * (tasks.length + 1)].includes(gramLength), "gram length");
  require(34, gramLength || gramSha === "00".repeat(32), "digest of nothing");
  const shared = key("shared") === null ? null : readLengths(...fields(key("shared"), 3));
  const found = key("companions");
  const companions = found === undefined ? null : readLengths(...fields(found, 3));
  const beside = [shared, companions].filter((group) => group);
  const groups = [...tasks.map((task) => task.group), ...beside];
  const place = groups.reduce((sum, group) => sum + total(group), 64 + aligned(gramLength));
  require(13, place === at, "place of the root index");
  metadata(key("metadata"));
  return { base, tasks, shared, companions, gramLength, gramSha };
}

function readLengths(sections, index, sha) {
  const sectionsLength = integer(sections, U48);
  require(33, sectionsLength % 8 === 0, "sections are not padded");
  return { sectionsLength, indexLength: integer(index, INDEX_MAX, 1), sha256: digest(sha) };
}

// 6 indexes: tasks

const [FLOAT16, FLOAT32, SYMBOLS, UNSIGNED, INTEGERS, ELEMENTS] = [0, 1, 2, 3, 4, 5];
const FLOATS = [FLOAT16, FLOAT32];
const between = (least, most) => (size) => least <= size && size <= most;
const width = (size) => [1, 2, 4, 8].includes(size);
const none = (size) => size === 0;
const SIZES = [none, none, between(2, 256), between(1, 32), width, width];
const COEFFICIENTS = 7;
const EXACT = 8;

function packedLength(kind, size, count) {
  if (kind === SYMBOLS) {
    let perByte = 1;
    while (size ** (perByte + 1) <= 256) perByte += 1;
    return Math.ceil(count / perByte);
  }
  if (kind === UNSIGNED) return Math.ceil((count * size) / 8);
  return count * (kind === FLOAT16 ? 2 : kind === FLOAT32 ? 4 : size);
}

function stream(value, kinds, count, wanted = null) {
  require(22, listed(value).length === 2 || value.length === 3, "not a stream");
  require(22, value.every((number) => typeof number === "bigint"), "not an integer");
  const [kind, length, size = 0] = value.map(Number);
  require(45, kinds.includes(kind), "kind of a stream");
  require(45, value.length === (FLOATS.includes(kind) ? 2 : 3), "fields of a stream");
  require(46, SIZES[kind](size) && (wanted === null || wanted === size), "size of a stream");
  const packed = packedLength(kind, size, count);
  require(47, packed <= length * 32768 && length <= packed, "length of a stream");
  return length;
}

function readMask(value, dims) {
  const rows = dims.length ? dims[0] : 1;
  const columns = Number(product(dims.slice(1)));
  const extent = { rows, columns, count: rows * columns };
  if (value === null) return [0, extent];
  const [rawKind, rawKept, bits] = fields(value, 3);
  const kind = integer(rawKind, 1, 0, 48);
  const flags = kind === 0 ? rows : extent.count;
  const kept = integer(rawKept, flags, 1, 48);
  const length = stream(bits, [UNSIGNED], flags, 1);
  if (kind === 1) return [length, { ...extent, count: kept }];
  return [length, { rows: kept, columns, count: kept * columns }];
}

// The bytes of all streams of a part, and its kind.
function readPart(value, extent, vectors, dtypeWidth) {
  require(22, listed(value).length && typeof value[0] === "bigint", "not a part");
  const kind = integer(value[0], 8, 1, 49);
  const [, a, b, c, d, e] = fields(value, [5, 6, 5, 3, 5, 2, 2, 2][kind - 1]);
  const count = extent.count;
  const codes = [SYMBOLS, INTEGERS];
  if (kind === 1) {
    const rank = integer(a, Math.min(extent.rows, extent.columns), 1, 51);
    const left = stream(b, [...FLOATS, ...codes], rank * extent.rows);
    const right = stream(c, [...FLOATS, ...codes], rank * extent.columns);
    return [kind, left + right + stream(d, FLOATS, rank)];
  }
  if (kind === 2 || kind === 3) {
    const log2 = integer(a, 16, 4, 52);
    require(52, log2 === 4 || 2 ** log2 < 2 * count, "a block larger than it has to be");
    const blocks = Math.ceil(count / 2 ** log2);
    if (kind === 3) {
      const scales = stream(c, [FLOAT16], blocks);
      const length = scales + stream(d, codes, blocks * 2 ** log2);
      real(b);
      return [kind, length];
    }
    const run = integer(b, log2, 1, 52);
    const scales = stream(d, [FLOAT16], blocks);
    const length = scales + stream(e, [UNSIGNED], blocks * 2 ** (log2 - run), run + 1);
    real(c);
    return [kind, length];
  }
  if (kind === 4) {
    real(a);
    return [kind, stream(b, codes, count)];
  }
  if (kind === 5) {
    const group = integer(a, COUNT_MAX);
    const groups = group ? Math.ceil(count / group) : 1;
    const floats = stream(b, FLOATS, groups) + stream(c, FLOATS, groups);
    return [kind, floats + stream(d, [SYMBOLS], count)];
  }
  if (kind === 6) return [kind, stream(a, FLOATS, count)];
  if (kind === COEFFICIENTS) {
    require(53, vectors, "no shared basis");
    return [kind, stream(a, FLOATS, vectors)];
  }
  return [kind, stream(a, [INTEGERS], count, dtypeWidth)];
}

const KEYS =
  "added aliases digest dtypes entries files metadata missing replaced rows small weights";

function readIndex(data, base, vectors, shared = false) {
  const key = keyed(unpack(data), KEYS, "files weights");
  const number = (value) => integer(value, base.length - 1, 0, 35);
  const pairs = listed(key("dtypes")).map((value) => fields(value, 2));
  const dtypes = new Map(pairs.map(([p, dtype]) => [number(p), dtypeName(dtype)]));
  increasing(pairs.map(([p]) => Number(p)), 36);
  const dtype = (p) => dtypes.get(p) ?? base[p].dtype;
  const isFloat = (name) => name.includes("float");
  const floating = (value) => {
    const p = number(value);
    require(42, isFloat(base[p].dtype) && isFloat(dtype(p)) && base[p].count, "not floats");
    return p;
  };
  const section = (length, crc) => ({ length: integer(length, U48), crc: integer(crc, U32) });
  const elements = (value, name, count, length) => {
    const found = stream(value, [ELEMENTS], count, WIDTHS[name]);
    require(44, found === length, "length of the stream");
  };
  const readKept = (p, [rawDtype, rawDims, length, crc, values]) => {
    const name = dtypeName(rawDtype);
    const record = { p, dims: dimensions(rawDims), ...section(length, crc) };
    elements(values, name, Number(product(record.dims)), record.length);
    return record;
  };
  const readEntry = (value) => {
    const [rawP, norm, error, gain, rawMask, rawParts, rawLength, crc] = fields(value, 8);
    const p = floating(rawP);
    magnitude(norm), magnitude(error), real(gain);
    let [length, extent] = readMask(rawMask, base[p].dims);
    const count = listed(rawParts).length;
    require(49, 1 <= count && count <= 16, "number of parts");
    const width = WIDTHS[dtype(p)];
    const parts = rawParts.map((part) => readPart(part, extent, vectors.get(p) ?? 0, width));
    const kinds = parts.map(([kind]) => kind);
    const exact = kinds.includes(EXACT);
    require(50, !exact || (count === 1 && rawMask === null), "exact differences not alone");
    require(50, kinds.filter((kind) => kind === COEFFICIENTS).length <= 1, "coefficients twice");
    require(43, !(shared && exact), "exact differences in the shared index");
    for (const [, bytes] of parts) length += bytes;
    require(22, typeof rawLength === "bigint", "not an integer");
    require(44, BigInt(length) === rawLength, "length of the streams");
    return { p, length, crc: integer(crc, U32) };
  };
  const readRows = (value) => {
    const [rawP, rawCount, length, crc, values] = fields(value, 5);
    const p = number(rawP);
    const dims = base[p].dims;
    require(40, dims.length, "no rows to add to");
    const count = integer(rawCount, U48 - BigInt(dims[0]), 1, 40);
    const columns = product(dims.slice(1));
    const all = product([dims[0] + count, ...dims.slice(1).map((dim) => dim || 1)]);
    require(40, all <= COUNT_MAX, "too many values");
    const record = { p, ...section(length, crc) };
    elements(values, dtype(p), count * Number(columns), record.length);
    return record;
  };
  const readSmall = (value) => {
    const [length, crc, symbols, rawMembers] = fields(value, 4);
    const record = section(length, crc);
    record.members = listed(rawMembers).map((member) => {
      const [p, norm, error, gain, scale] = fields(member, 5);
      magnitude(norm), magnitude(error), real(gain), real(scale);
      return floating(p);
    });
    require(54, record.members.length, "no small parameters");
    increasing(record.members, 36);
    const count = record.members.reduce((sum, p) => sum + base[p].count, 0);
    require(44, stream(symbols, [SYMBOLS], count) === record.length, "length of the stream");
    return record;
  };
  const aliases = listed(key("aliases")).map((value) => {
    const [p, of] = fields(value, 2);
    return [number(p), integer(of, Number(p) - 1, 0, 38)];
  });
  const kept = (name) => listed(key(name)).map((value) => fields(value, 6));
  const added = kept("added").map(([name, ...rest]) => readKept(printable(name, 26), rest));
  const sha = digest(key("digest"));
  const entries = listed(key("entries")).map(readEntry);
  metadata(key("metadata"));
  const missing = listed(key("missing")).map(number);
  const replaced = kept("replaced").map(([p, ...rest]) => readKept(number(p), rest));
  const rows = listed(key("rows")).map(readRows);
  const small = key("small") === null ? null : readSmall(key("small"));
  const files = key("files") === undefined ? null : readFiles(key("files"));
  const weights = key("weights") === undefined ? [] : readWeights(key("weights"), files ?? []);
  increasing(entries.map((entry) => entry.p), 36, !shared);
  increasing(aliases.map(([p]) => p), 36);
  increasing(missing, 36);
  for (const records of [replaced, rows, added]) increasing(records.map((record) => record.p), 36);
  if (shared) {
    const others = [added, aliases, pairs, missing, replaced, rows, small ? [small] : [], weights];
    require(43, files === null, "files are shared");
    require(43, others.every((list) => list.length === 0), "more than entries are shared");
    const few = entries.every(({ p }, n) => n < 512 || entries[n - 512].p !== p);
    require(43, few, "too many vectors of a parameter");
  }
  const gone = new Set([...replaced.map((record) => record.p), ...missing]);
  const tied = new Map(aliases);
  const changed = [...entries.map((entry) => entry.p), ...(small ? small.members : [])];
  const mentions = [...tied.keys(), ...missing, ...replaced.map((record) => record.p), ...changed];
  require(37, shared || new Set(mentions).size === mentions.length, "a parameter twice");
  for (const [p, of] of aliases) {
    require(38, !tied.has(of) && !gone.has(of), "an alias of what is not decoded");
    const same = base[p].dtype === base[of].dtype && `${base[p].dims}` === `${base[of].dims}`;
    require(38, same && !dtypes.has(p), "an alias of another shape or dtype");
  }
  for (const [p, name] of dtypes) {
    require(39, isFloat(name) && isFloat(base[p].dtype), "a dtype that is not of floats");
    require(39, name !== base[p].dtype && !gone.has(p), "a dtype that is no change");
  }
  for (const { p } of rows) require(40, !gone.has(p) && !tied.has(p), "rows of nothing");
  const names = new Set(base.map((parameter) => parameter.name));
  for (const { p } of added) require(41, !names.has(p), "added what the base model has");
  const sections = [...(small ? [small] : []), ...entries, ...replaced, ...rows, ...added];
  const needed = (files ?? []).filter((file) => file.source).map((file) => file.sha);
  needed.push(...weights.map((file) => file.header));
  return { digest: sha, entries, sections, needed };
}

// 6.8 companion files

const STEP = /^[A-Za-z0-9_]([A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?$/;
const OF_WEIGHTS = /\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|gguf|onnx|npz|tvq)$/i;

const fileName = (value, most) => {
  const steps = textual(value).split("/");
  const good = steps.every((step) => STEP.test(step) && !DEVICE.test(step));
  require(63, good && steps.length <= most, "name of a file");
  return value;
};
const checkPlaces = (files, others) => {
  require(64, files.length <= 256, "too many files");
  increasing(files.map((file) => file.name), 64);
  const names = [...files, ...others].map((file) => file.name.toLowerCase());
  const folders = new Set(names.filter((name) => name.includes("/")).map((n) => n.split("/")[0]));
  const places = new Set([...names, ...folders]);
  require(64, places.size === names.length + folders.size, "two files in one place");
};

function readFiles(value) {
  const files = listed(value).map((item) => {
    const [name, source, sha] = fields(item, 3);
    require(63, !OF_WEIGHTS.test(fileName(name, 2)), "a file of weights");
    require(63, !/(^|\/)adapter_/i.test(name), "a file of an adapter");
    return { name, source: integer(source, 1), sha: digest(sha) };
  });
  checkPlaces(files, []);
  return files;
}

function readWeights(value, files) {
  const weights = listed(value).map((item) => {
    const [name, sha, header] = fields(item, 3);
    require(63, fileName(name, 1).endsWith(".safetensors"), "no .safetensors");
    return { name, sha: digest(sha), header: digest(header) };
  });
  require(64, weights.length, "no file of weights");
  checkPlaces(weights, files);
  return weights;
}

function readBlobs(data) {
  const key = keyed(unpack(data), "blobs digest");
  const sections = listed(key("blobs")).map((item) => {
    const [sha, rawSize, rawLength, crc] = fields(item, 4);
    const size = integer(rawSize, 2 ** 26);
    const length = integer(rawLength, 2 ** 26, 0, 65);
    require(65, size <= length * 32768 && length <= size, "length of a blob");
    return { sha: digest(sha), size, length, crc: integer(crc, U32) };
  });
  require(65, sections.length, "no blob");
  increasing(sections.map((blob) => blob.sha), 65);
  return { digest: digest(key("digest")), sections };
}

function checkBlobs(blobs, tasks) {
  const sizes = new Map(blobs.map((blob) => [blob.sha, blob.size]));
  for (const { needed } of tasks) {
    require(66, needed.every((sha) => sizes.has(sha)), "a file that is not there");
    const size = needed.reduce((sum, sha) => sum + sizes.get(sha), 0);
    require(66, size <= 2 ** 28, "too many bytes");
  }
  const used = new Set(tasks.flatMap(({ needed }) => needed));
  require(67, used.size === sizes.size, "what no task needs");
}

for (const path of process.argv.slice(2)) {
  let verdict;
  try {
    verdict = readFile(readFileSync(path));
  } catch (problem) {
    if (!(problem instanceof Refused)) throw problem;
    verdict = { refused: problem.rule, message: problem.message };
  }
  console.log(JSON.stringify({ path, ...verdict }));
}
