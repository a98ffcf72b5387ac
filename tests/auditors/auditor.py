"""An auditor who trusts nobody, on public packages alone: aics-tlog (a C2SP client), pycose and cbor2 (COSE, CBOR), all of PyPI.

    auditor.py POLICY EXPORT|PROOF...

An export is a directory: its notes, tiles, entries, older checkpoints and the signature of every bundle are checked. A proof is a
file of C2SP tlog-proof: a receipt, with the signature in it, or a state proof. Each gets a line, "PATH: holds ..." or "PATH: FAILS: ...";
the exit code is 1 if any fails. It shares no code with Atlas and was written from docs/formats.md. tests/auditors/prepare installs
what it needs.
"""
import base64, hashlib, pathlib, sys

import cbor2
from aics_tlog import (FileSystemTileReader, leaf_hash, parse_note, parse_vkey, read_entry, verify_checkpoint, verify_consistency,
                       verify_inclusion)
from aics_tlog.tiles import consistency_proof_from_tiles
from aics_tlog.verified import VerifiedTileReader, audit_tiles
from pycose.keys import OKPKey
from pycose.keys.curves import Ed25519
from pycose.messages import CoseMessage


class Policy:
    """The lines of C2SP tlog-policy that a cluster's policy has."""

    def __init__(self, text):
        self.logs, named, self.quorum, group = [], {}, 0, None
        for line in text.splitlines():
            match line.split():
                case ["log", vkey]: self.logs.append(parse_vkey(vkey))
                case ["witness", name, vkey]: named[name] = parse_vkey(vkey)
                case ["group", name, least, *members]:
                    group, self.quorum, self.witnesses = name, int(least), [named[member] for member in members]
                case ["quorum", name]: assert name == group, line
                case _: raise ValueError(f"{line!r} is not a line of such a policy")
        assert 1 <= self.quorum <= len(self.witnesses), "an impossible quorum"
        (self.origin,) = {log.name for log in self.logs}

    def checkpoint(self, text):
        """Size and root of a note that a quorum cosigned, and that one of the logs published."""
        said = []
        for log in self.logs:
            result = verify_checkpoint(parse_note(text), log, self.witnesses, self.quorum, expected_origin=self.origin)
            if result.ok: return result.size, result.root
            said.append(result.error)
        raise ValueError(f"not certified: {'; '.join(map(str, said))}")


def signed(cose_sign1, origin, requests):
    """The COSE_Sign1 of a bundle holds, and is over these requests."""
    message = CoseMessage.decode(cbor2.dumps(cose_sign1))
    message.key = OKPKey(crv=Ed25519, x=cbor2.loads(cose_sign1.value[0])[4])
    assert message.verify_signature(), "a client's signature does not hold"
    payload = cbor2.loads(message.payload)
    assert payload[:2] == ["atlas-bundle/1", origin] and payload[4] == len(requests), payload
    leaves = [leaf_hash(cbor2.dumps(request, canonical=True)) for request in requests]
    while len(leaves) > 1:
        pairs = [leaves[i:i + 2] for i in range(0, len(leaves), 2)]
        leaves = [hashlib.sha256(b"\x01" + b"".join(pair)).digest() if len(pair) == 2 else pair[0] for pair in pairs]
    assert payload[5] == leaves[0], "the bundle was signed over other requests"


def audit(policy, export):
    size, root = policy.checkpoint((export / "checkpoint").read_bytes())
    tiles = FileSystemTileReader(export)
    audit_tiles(tiles, size, root)
    proven = VerifiedTileReader(tiles, size, root)
    checkpoints = sorted((export / "checkpoints").iterdir())
    for file in checkpoints:
        older, older_root = policy.checkpoint(file.read_bytes())
        assert str(older) == file.name and older <= size, f"checkpoints/{file.name} is of size {older}"
        proof = consistency_proof_from_tiles(proven, older, size)
        assert verify_consistency(older, size, older_root, root, proof), f"checkpoints/{file.name} is of another history"
    bundles = 0
    for index in range(size):
        entry = cbor2.loads(read_entry(proven, index, size))
        if entry[1] == 1:
            signed(entry[4], policy.origin, entry[5])
            bundles += 1
    return f"{size} entries, root {base64.b64encode(root).decode()}, {len(checkpoints)} checkpoints, {bundles} signatures"


def prove(policy, file):
    head, note = file.read_text().split("\n\n", 1)
    kind, extra, index, *path = head.split("\n")
    assert kind == "c2sp.org/tlog-proof@v1" and extra.startswith("extra ") and index.startswith("index "), "not a tlog-proof"
    size, root = policy.checkpoint(note)
    index, path = int(index[6:]), [base64.b64decode(line, validate=True) for line in path]
    what, entry, *more = cbor2.loads(base64.b64decode(extra[6:], validate=True))
    assert verify_inclusion(leaf_hash(entry), index, size, path, root), "the entry does not stand there"
    entry = cbor2.loads(entry)
    if what == 0:
        if entry[1] == 1: signed(entry[4], policy.origin, entry[5])
        return f"entry {index}"
    assert what == 1 and entry[1] == 2, "neither a receipt nor a state proof"
    slot, leaf, path = more
    assert verify_inclusion(leaf_hash(leaf), slot, entry[4], path, entry[5]), "the slot was not so"
    return f"slot {slot} at entry {index}: {leaf.hex()}"


policy, code = Policy(pathlib.Path(sys.argv[1]).read_text()), 0
for path in map(pathlib.Path, sys.argv[2:]):
    try:
        print(f"{path}: holds in {policy.origin}: {(audit if path.is_dir() else prove)(policy, path)}")
    except Exception as error:
        print(f"{path}: FAILS: {type(error).__name__}: {str(error).splitlines()[:1]}")
        code = 1
sys.exit(code)
