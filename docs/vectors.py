#!/usr/bin/env python3
"""Makes docs/vectors.json: one small history in Atlas's formats, written from docs/formats.md alone.

Needs Python 3.9 and the package "cryptography" (for Ed25519 only). It shares no code with Atlas. The keys are made of
fixed seeds: worth nothing.
"""
import base64, hashlib, json, struct, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

UNDEFINED = object()


# ---- deterministic CBOR (RFC 8949, 4.2.1) ----
def head(major, n):
    if n < 24: return bytes([major << 5 | n])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if n < 1 << 8 * size: return bytes([major << 5 | code]) + n.to_bytes(size, "big")

def shortest_float(x):
    for code, form in ((0xF9, ">e"), (0xFA, ">f")):
        try:
            packed = struct.pack(form, x)
            if struct.unpack(form, packed)[0] == x: return bytes([code]) + packed
        except OverflowError: pass
    return b"\xfb" + struct.pack(">d", x)

class Raw(bytes):
    """An item that is encoded already."""

def cbor(x):
    if isinstance(x, Raw): return bytes(x)
    if x is None: return b"\xf6"
    if x is UNDEFINED: return b"\xf7"
    if x is True: return b"\xf5"
    if x is False: return b"\xf4"
    if isinstance(x, int): return head(0, x) if x >= 0 else head(1, -1 - x)
    if isinstance(x, float): return shortest_float(x)
    if isinstance(x, bytes): return head(2, len(x)) + x
    if isinstance(x, str): return head(3, len(x.encode())) + x.encode()
    if isinstance(x, list): return head(4, len(x)) + b"".join(map(cbor, x))
    if isinstance(x, dict):
        pairs = sorted((cbor(k), cbor(v)) for k, v in x.items())
        return head(5, len(pairs)) + b"".join(k + v for k, v in pairs)
    raise TypeError(x)


# ---- RFC 6962 trees ----
def sha(*parts): return hashlib.sha256(b"".join(parts)).digest()
def leaf(x): return sha(b"\x00", x)
def node(a, b): return sha(b"\x01", a, b)
def split(n): return 1 << (n - 1).bit_length() - 1

def root(hashes):
    if not hashes: return sha()
    if len(hashes) == 1: return hashes[0]
    k = split(len(hashes))
    return node(root(hashes[:k]), root(hashes[k:]))

def path(hashes, i):
    if len(hashes) <= 1: return []
    k = split(len(hashes))
    if i < k: return path(hashes[:k], i) + [root(hashes[k:])]
    return path(hashes[k:], i - k) + [root(hashes[:k])]


# ---- keys, COSE_Sign1 (RFC 9052), notes (C2SP) ----
class Key:
    def __init__(self, seed):
        self.secret = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.public = self.secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    def sign(self, x): return self.secret.sign(x)

def sign1(key, payload):
    protected = cbor({1: -8, 4: key.public})
    signature = key.sign(cbor(["Signature1", protected, b"", payload]))
    return Raw(b"\xd2" + cbor([protected, {}, payload, signature]))

b64 = lambda x: base64.b64encode(x).decode()
key_id = lambda name, kind, key: sha(name.encode(), b"\n", bytes([kind]), key)[:4]
vkey = lambda name, kind, key: f"{name}+{key_id(name, kind, key).hex()}+{b64(bytes([kind]) + key)}"

ORIGIN = "example/plant"
TIME = 1_427_766_000_000  # 2015-03-31T01:40:00Z
operator, gateway, admin, newcomer = Key(1), Key(2), Key(3), Key(4)
members = [{"log": Key(10 + i), "cosign": Key(20 + i), "link": Key(30 + i), "protocol": Key(40 + i)} for i in range(4)]
cosigner = lambda i: f"{ORIGIN}/replica/{i}"

policy = "".join(f"log {vkey(ORIGIN, 1, m['log'].public)}\n" for m in members)
policy += "".join(f"witness r{i} {vkey(cosigner(i), 4, m['cosign'].public)}\n" for i, m in enumerate(members))
policy += "group replicas 3 r0 r1 r2 r3\nquorum replicas\n"

def bundle(key, session, first, requests, time):
    payload = ["atlas-bundle/1", ORIGIN, session, first, len(requests), root([leaf(cbor(r)) for r in requests]), time]
    return sign1(key, cbor(payload))

# Entry 0: the genesis.
settings = {"origin": ORIGIN, "genesis": bytes(32), "checkpoint_interval": 256, "administrator_names": ["Ada Admin"], "roles": [["operator", ["*:*"]], ["reader", []]],
            "clients": [[operator.public, "operator", "operator"], [gateway.public, "gateway", "reader"]]}
config = [1, 0, 0, TIME, 0, policy, [[i, f"replica-{i}", m["link"].public, m["protocol"].public, m["log"].public, m["cosign"].public]
          for i, m in enumerate(members)], [admin.public], settings]

# Entry 1: the operator opens a session and sets two properties; the third request is refused, since its condition fails.
opening = [1, None, [3]]
first_set = [1, None, [0, "plant/turbine-1", [["state", "running", 0, None], ["power", 1345.5, 0, 1_427_765_999_500_000_000]], "first reading"]]
refused = [1, None, [2, [["plant/turbine-1", "state", 0, "stopped"]], [[0, "plant/turbine-1", [["brake", "released", 0, None]], None]], "service"]]
requests1 = [opening, first_set, refused]
entry1 = [1, 1, 1, TIME + 1_000, bundle(operator, None, 0, requests1, TIME + 990), requests1,
          [[0, []], [0, [[0, 1, None], [1, 1, None]]], [300, []]]]

# Entry 2: in the session that entry 1 opened, the state changes and the power is deleted.
stop = [1, TIME + 60_000, [2, [], [[0, "plant/turbine-1", [["state", "stopped", 1, None]], None], [1, "plant/turbine-1", ["power"], None]], "trip"]]
entry2 = [1, 1, 2, TIME + 2_000, bundle(operator, 1, 3, [stop], TIME + 1_985), [stop], [[0, [[0, 2, 1], [1, 2, 1]]]]]

# The slots after it, by number, and sorted by name.
slots = [["atlas-slot/1", 0, "plant/turbine-1", "state", 2, 2, 0, TIME + 2_000, None, operator.public, 1, "stopped"],
         ["atlas-slot/1", 1, "plant/turbine-1", "power", 2, 2, 0, TIME + 2_000, None, operator.public, 0, UNDEFINED]]
slot_hashes = [leaf(cbor(s)) for s in slots]
by_name = sorted(range(len(slots)), key=lambda i: (slots[i][2].encode(), slots[i][3].encode()))
sorted_hashes = [slot_hashes[i] for i in by_name]

# Entries 3 and 4: the operator sends what an administrator signed: another key begins to stand for somebody.
statement = sign1(admin, cbor(["atlas-key/1", ORIGIN, 1, 0, newcomer.public, "reader", "Maria Keller", None, TIME + 86_400_000, None, "shift B"]))
register = [1, None, [4, bytes(statement)]]
entry3 = [1, 1, 3, TIME + 3_000, bundle(operator, 1, 4, [register], TIME + 2_990), [register], [[0, []]]]
key_entry = [1, 3, 3, TIME + 3_000, statement]

# Entry 5: a checkpoint's STATE.
state = [1, 2, 256, TIME + 3_000, 2, root(slot_hashes), None, root(sorted_hashes)]

entries = [cbor(e) for e in (config, entry1, entry2, entry3, key_entry, state)]
hashes = [leaf(e) for e in entries]
tree_root = root(hashes)

body = f"{ORIGIN}\n{len(entries)}\n{b64(tree_root)}\n"
cosigned = 1_427_766_004
note = body + "\n"
note += f"— {ORIGIN} {b64(key_id(ORIGIN, 1, members[0]['log'].public) + members[0]['log'].sign(body.encode()))}\n"
for i in range(3):
    key, name = members[i]["cosign"], cosigner(i)
    signature = key.sign(f"cosignature/v1\ntime {cosigned}\n{body}".encode())
    note += f"— {name} {b64(key_id(name, 4, key.public) + struct.pack('>Q', cosigned) + signature)}\n"

def proof(index, extra):
    lines = ["c2sp.org/tlog-proof@v1", f"extra {b64(cbor(extra))}", f"index {index}", *map(b64, path(hashes, index)), "", note]
    return "\n".join(lines)

state_extra = [1, entries[5], 0, cbor(slots[0]), path(slot_hashes, 0)]
# "plant/turbine-1 speed" would stand between the two slots by name: "power" < "speed" < "state".
neighbours = [[i, cbor(slots[by_name[i]]), path(sorted_hashes, i)] for i in range(2)]
absence_extra = [2, entries[5], neighbours]

json.dump({
    "origin": ORIGIN, "policy": policy,
    "entries": [e.hex() for e in entries], "leaf_hashes": [h.hex() for h in hashes], "root": tree_root.hex(),
    "bundle": {"requests": [cbor(r).hex() for r in requests1], "requests_root": root([leaf(cbor(r)) for r in requests1]).hex(),
               "cose_sign1": bytes(entry1[4]).hex(), "key": operator.public.hex()},
    "slots": [cbor(s).hex() for s in slots], "slot_hashes": [h.hex() for h in slot_hashes],
    "state_root": root(slot_hashes).hex(), "absence_root": root(sorted_hashes).hex(),
    "checkpoint": note, "receipt": proof(1, [0, entries[1]]), "state_proof": proof(5, state_extra), "absence_proof": proof(5, absence_extra),
}, sys.stdout, indent=1, ensure_ascii=False)
print()
