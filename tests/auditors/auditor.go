// An auditor who trusts nobody, on golang.org/x/mod/sumdb alone: it shares no code with Atlas, and was written from
// docs/formats.md and the C2SP specifications.
//
//	auditor POLICY EXPORT|PROOF...
//
// An export is a directory: its notes, tiles, entries and every older checkpoint are checked. A proof is a file of C2SP
// tlog-proof: a receipt or a state proof. Each gets a line, "PATH: holds ..." or "PATH: FAILS: ..."; the exit code is 1 if any fails.
// tests/auditors/prepare builds it.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8

// cosigner verifies C2SP tlog-cosignature lines, key type 4, which x/mod does not know.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.hash }
func (c *cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), msg)
	return ed25519.Verify(c.key, []byte(signed), sig[8:])
}

func newCosigner(vkey string) (*cosigner, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, fmt.Errorf("%q is not a key", vkey)
	}
	id, err := strconv.ParseUint(parts[1], 16, 32)
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(key) != 33 || key[0] != 4 {
		return nil, fmt.Errorf("%q is not a cosigner's key", vkey)
	}
	hash := sha256.Sum256(append([]byte(parts[0]+"\n"), key...))
	if binary.BigEndian.Uint32(hash[:]) != uint32(id) {
		return nil, fmt.Errorf("%q has another key id", vkey)
	}
	return &cosigner{parts[0], uint32(id), key[1:]}, nil
}

// policy is what of C2SP tlog-policy an Atlas cluster's policy uses: logs of one origin, and one group of cosigners.
type policy struct {
	origin    string
	verifiers []note.Verifier
	members   map[string]bool
	quorum    int
}

func readPolicy(path string) (*policy, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := &policy{members: map[string]bool{}}
	witnesses := map[string]string{}
	group := ""
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
		case words[0] == "log" && len(words) == 2:
			verifier, err := note.NewVerifier(words[1])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
			if p.origin != "" && p.origin != verifier.Name() {
				return nil, errors.New("logs of two origins")
			}
			p.origin = verifier.Name()
			p.verifiers = append(p.verifiers, verifier)
		case words[0] == "witness" && len(words) == 3:
			witness, err := newCosigner(words[2])
			if err != nil {
				return nil, err
			}
			witnesses[words[1]] = witness.name
			p.verifiers = append(p.verifiers, witness)
		case words[0] == "group" && len(words) > 3:
			group = words[1]
			if p.quorum, err = strconv.Atoi(words[2]); err != nil || p.quorum < 1 || p.quorum > len(words)-3 {
				return nil, fmt.Errorf("%s: an impossible group", line)
			}
			for _, member := range words[3:] {
				if witnesses[member] == "" {
					return nil, fmt.Errorf("%s: %s is unknown", line, member)
				}
				p.members[witnesses[member]] = true
			}
		case words[0] == "quorum" && len(words) == 2 && words[1] == group:
		default:
			return nil, fmt.Errorf("%q is not a line of such a policy", line)
		}
	}
	if p.origin == "" || p.quorum == 0 {
		return nil, errors.New("the policy names no log or no quorum")
	}
	return p, nil
}

// checkpoint verifies a note under the policy.
func (p *policy) checkpoint(text []byte) (tlog.Tree, error) {
	opened, err := note.Open(text, note.VerifierList(p.verifiers...))
	if err != nil {
		return tlog.Tree{}, err
	}
	signed, logged := map[string]bool{}, false
	for _, line := range opened.Sigs {
		logged = logged || line.Name == p.origin
		if p.members[line.Name] {
			signed[line.Name] = true
		}
	}
	if !logged || len(signed) < p.quorum {
		return tlog.Tree{}, fmt.Errorf("%d of %d cosigned, log line: %v", len(signed), p.quorum, logged)
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != p.origin || lines[3] != "" {
		return tlog.Tree{}, errors.New("the note is not a checkpoint of " + p.origin)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 1 || strconv.FormatInt(size, 10) != lines[1] {
		return tlog.Tree{}, fmt.Errorf("size %q", lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// entries reads the entry bundles of a tree.
func entries(dir string, size int64) ([][]byte, error) {
	var all [][]byte
	for int64(len(all)) < size {
		tile := tlog.Tile{H: tileHeight, L: 0, N: int64(len(all)) >> tileHeight, W: 1 << tileHeight}
		if left := size - int64(len(all)); left < int64(tile.W) {
			tile.W = int(left)
		}
		path := strings.Replace(tilePath(tile), "tile/0/", "tile/entries/", 1)
		data, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return nil, err
		}
		for i := 0; i < tile.W; i++ {
			if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
				return nil, fmt.Errorf("%s: cut off in entry %d", path, i)
			}
			end := 2 + int(binary.BigEndian.Uint16(data))
			all = append(all, data[2:end])
			data = data[end:]
		}
		if len(data) > 0 {
			return nil, fmt.Errorf("%s: bytes behind the last entry", path)
		}
	}
	return all, nil
}

// tilePath is C2SP's: without the height that x/mod writes.
func tilePath(tile tlog.Tile) string {
	return strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", tileHeight), "tile/", 1)
}

func audit(p *policy, dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return "", err
	}
	tree, err := p.checkpoint(text)
	if err != nil {
		return "", fmt.Errorf("checkpoint: %w", err)
	}
	leaves, err := entries(dir, tree.N)
	if err != nil {
		return "", err
	}
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			hashes[i] = stored[index]
		}
		return hashes, nil
	})
	for i, entry := range leaves {
		more, err := tlog.StoredHashes(int64(i), entry, reader)
		if err != nil {
			return "", err
		}
		stored = append(stored, more...)
	}
	rootAt := func(size int64) (tlog.Hash, error) { return tlog.TreeHash(size, reader) }
	if root, err := rootAt(tree.N); err != nil || root != tree.Hash {
		return "", fmt.Errorf("the entries make root %v, the checkpoint says %v (%v)", root, tree.Hash, err)
	}
	// x/mod lists the last tile at each of its widths; an export has the widest.
	all, tiles := tlog.NewTiles(tileHeight, 0, tree.N), []tlog.Tile{}
	for i, tile := range all {
		if i+1 == len(all) || all[i+1].L != tile.L || all[i+1].N != tile.N {
			tiles = append(tiles, tile)
		}
	}
	for _, tile := range tiles {
		right, err := tlog.ReadTileData(tile, reader)
		if err != nil {
			return "", err
		}
		if found, err := os.ReadFile(filepath.Join(dir, tilePath(tile))); err != nil || !bytes.Equal(found, right) {
			return "", fmt.Errorf("%s is not what the entries make (%v)", tilePath(tile), err)
		}
	}
	older, err := os.ReadDir(filepath.Join(dir, "checkpoints"))
	if err != nil {
		return "", err
	}
	for _, file := range older {
		text, err := os.ReadFile(filepath.Join(dir, "checkpoints", file.Name()))
		if err != nil {
			return "", err
		}
		old, err := p.checkpoint(text)
		if err != nil {
			return "", fmt.Errorf("checkpoints/%s: %w", file.Name(), err)
		}
		if old.N > tree.N || file.Name() != strconv.FormatInt(old.N, 10) {
			return "", fmt.Errorf("checkpoints/%s is of size %d", file.Name(), old.N)
		}
		if root, err := rootAt(old.N); err != nil || root != old.Hash {
			return "", fmt.Errorf("checkpoints/%s is of another history (%v)", file.Name(), err)
		}
		proof, err := tlog.ProveTree(tree.N, old.N, reader)
		if err == nil {
			err = tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash)
		}
		if err != nil {
			return "", fmt.Errorf("checkpoints/%s: %w", file.Name(), err)
		}
	}
	return fmt.Sprintf("%d entries, root %v, %d checkpoints", tree.N, tree.Hash, len(older)), nil
}

// item is CBOR as far as proofs and STATE entries have it: numbers, byte strings, arrays, null.
func item(data []byte) (any, []byte, error) {
	short := errors.New("CBOR is cut off")
	if len(data) == 0 {
		return nil, nil, short
	}
	major, info := data[0]>>5, uint64(data[0]&31)
	data = data[1:]
	if major == 7 && info == 22 {
		return nil, data, nil
	}
	if info >= 24 {
		width := 1 << (info - 24)
		if info > 27 || len(data) < width {
			return nil, nil, short
		}
		info = 0
		for _, b := range data[:width] {
			info = info<<8 | uint64(b)
		}
		data = data[width:]
	}
	switch major {
	case 0:
		return info, data, nil
	case 1:
		return -1 - int64(info), data, nil
	case 2:
		if uint64(len(data)) < info {
			return nil, nil, short
		}
		return data[:info], data[info:], nil
	case 4:
		all := []any{}
		for ; info > 0; info-- {
			one, rest, err := item(data)
			if err != nil {
				return nil, nil, err
			}
			all, data = append(all, one), rest
		}
		return all, data, nil
	}
	return nil, nil, fmt.Errorf("CBOR of major type %d", major)
}

func hashes(lines []string) (tlog.RecordProof, error) {
	var path tlog.RecordProof
	for _, line := range lines {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return nil, err
		}
		path = append(path, hash)
	}
	return path, nil
}

// prove checks one receipt or state proof; what does not have the right types panics, and that is caught.
func prove(p *policy, file string) (said string, err error) {
	defer func() {
		if found := recover(); found != nil {
			err = fmt.Errorf("not a proof: %v", found)
		}
	}()
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	head, rest, found := strings.Cut(string(text), "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return "", errors.New("not a tlog-proof")
	}
	extra, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return "", err
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err != nil {
		return "", err
	}
	path, err := hashes(lines[3:])
	if err != nil {
		return "", err
	}
	tree, err := p.checkpoint([]byte(rest))
	if err != nil {
		return "", fmt.Errorf("%w", err)
	}
	decoded, left, err := item(extra)
	if err != nil || len(left) > 0 {
		return "", fmt.Errorf("extra: %v", err)
	}
	parts := decoded.([]any)
	entry := parts[1].([]byte)
	if err := tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
		return "", fmt.Errorf("%w", err)
	}
	if parts[0].(uint64) == 0 {
		return fmt.Sprintf("entry %d", index), nil
	}
	if parts[0].(uint64) != 1 {
		return "", errors.New("neither a receipt nor a state proof")
	}
	decoded, _, err = item(entry)
	if err != nil {
		return "", err
	}
	state := decoded.([]any)
	if state[1].(uint64) != 2 {
		return "", fmt.Errorf("entry %d is no STATE", index)
	}
	var root tlog.Hash
	copy(root[:], state[5].([]byte))
	slot, leaf := parts[2].(uint64), parts[3].([]byte)
	path = nil
	for _, hash := range parts[4].([]any) {
		var one tlog.Hash
		if copy(one[:], hash.([]byte)) != tlog.HashSize || len(hash.([]byte)) != tlog.HashSize {
			return "", errors.New("a hash of another length")
		}
		path = append(path, one)
	}
	if err := tlog.CheckRecord(path, int64(state[4].(uint64)), root, int64(slot), tlog.RecordHash(leaf)); err != nil {
		return "", fmt.Errorf("the slot: %w", err)
	}
	return fmt.Sprintf("slot %d at entry %d: %x", slot, index, leaf), nil
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: auditor POLICY EXPORT|PROOF...")
		os.Exit(2)
	}
	p, err := readPolicy(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	code := 0
	for _, path := range os.Args[2:] {
		check := prove
		if about, err := os.Stat(path); err == nil && about.IsDir() {
			check = audit
		}
		if said, err := check(p, path); err != nil {
			fmt.Printf("%s: FAILS: %v\n", path, err)
			code = 1
		} else {
			fmt.Printf("%s: holds in %s: %s\n", path, p.origin, said)
		}
	}
	os.Exit(code)
}
