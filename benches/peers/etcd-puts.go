// One client that puts 128 bytes into etcd, one put at a time, and says how long each took.
//
//	etcd-puts SECONDS HOST:PORT...
//
// It speaks gRPC (HTTP/2 in the clear, RFC 9113, header literals of RFC 7541) itself, over one connection to the leader, with nothing
// allocated or decoded that the measurement does not need: etcd is charged as little for its client as can be. Before it counts it warms
// up for a second. Keys are uniform over 16,000 names, as `atlas bench` has properties. Prints one JSON object; times in microseconds.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"sort"
	"strconv"
	"time"
)

const (
	valueBytes = 128
	keys       = 16000
	warmUp     = time.Second
	patience   = 10 * time.Second
	// Half of HTTP/2's first window: when so many bytes of data have come, the other end is told that they were taken.
	window   = 32 << 10
	maxFrame = 1 << 20
)

// Frame types and flags of RFC 9113.
const (
	frameData, frameHeaders, frameReset, frameSettings, framePing, frameGoAway, frameWindow = 0, 1, 3, 4, 6, 7, 8
	endStream, acknowledge, endHeaders                                                      = 1, 1, 4
)

type connection struct {
	socket net.Conn
	reader *bufio.Reader
	stream uint32
	taken  int
	out    []byte
}

func dial(address string) (*connection, error) {
	socket, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	c := &connection{socket: socket, reader: bufio.NewReaderSize(socket, 64<<10), stream: 1}
	c.out = append(c.out, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"...)
	c.out = frame(c.out, frameSettings, 0, 0, nil)
	return c, nil
}

func frame(out []byte, kind, flags byte, stream uint32, body []byte) []byte {
	out = append(out, byte(len(body)>>16), byte(len(body)>>8), byte(len(body)), kind, flags)
	out = binary.BigEndian.AppendUint32(out, stream)
	return append(out, body...)
}

// A string literal without Huffman coding; all of ours are shorter than 127 bytes.
func literal(out []byte, text string) []byte {
	return append(append(out, byte(len(text))), text...)
}

// The header block of a call: entries of the static table and literals that are not kept, so that it never changes.
func headers(path string) []byte {
	block := []byte{0x83, 0x86}                       // :method POST, :scheme http
	block = literal(append(block, 0x04), path)        // :path
	block = literal(append(block, 0x01), "127.0.0.1") // :authority
	block = append(block, 0x0f, 0x10)                 // content-type
	block = literal(block, "application/grpc")        //
	block = literal(append(block, 0x00), "te")        // te
	return literal(block, "trailers")
}

// call sends a message and gives the one that comes back, which is never empty from etcd; an error has none.
func (c *connection) call(block, message []byte) ([]byte, error) {
	stream := c.stream
	c.stream += 2
	body := make([]byte, 5, 5+len(message))
	binary.BigEndian.PutUint32(body[1:], uint32(len(message)))
	body = append(body, message...)
	c.out = frame(c.out, frameHeaders, endHeaders, stream, block)
	c.out = frame(c.out, frameData, endStream, stream, body)
	if err := c.flush(); err != nil {
		return nil, err
	}
	var answer []byte
	for {
		kind, flags, of, body, err := c.read()
		if err != nil {
			return nil, err
		}
		switch {
		case kind == frameSettings && flags&acknowledge == 0:
			c.out = frame(c.out, frameSettings, acknowledge, 0, nil)
		case kind == framePing && flags&acknowledge == 0:
			c.out = frame(c.out, framePing, acknowledge, 0, body)
		case kind == frameGoAway, kind == frameReset:
			return nil, errors.New("etcd ended the connection")
		case kind == frameData && of == stream:
			answer = append(answer, body...)
			c.taken += len(body)
		}
		if c.taken >= window {
			increment := binary.BigEndian.AppendUint32(nil, uint32(c.taken))
			c.out = frame(c.out, frameWindow, 0, 0, increment)
			c.taken = 0
		}
		if kind != frameSettings && kind != framePing && of == stream && flags&endStream != 0 {
			if len(answer) <= 5 || answer[0] != 0 {
				return nil, errors.New("etcd refused the call")
			}
			return answer[5:], nil
		}
		if kind == frameSettings || kind == framePing {
			if err := c.flush(); err != nil {
				return nil, err
			}
		}
	}
}

func (c *connection) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if err := c.socket.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := c.socket.Write(c.out)
	c.out = c.out[:0]
	return err
}

func (c *connection) read() (kind, flags byte, stream uint32, body []byte, err error) {
	var head [9]byte
	if _, err = io.ReadFull(c.reader, head[:]); err != nil {
		return
	}
	length := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	if length > maxFrame {
		err = errors.New("a frame is too long")
		return
	}
	body = make([]byte, length)
	_, err = io.ReadFull(c.reader, body)
	return head[3], head[4], binary.BigEndian.Uint32(head[5:]) & 0x7fffffff, body, err
}

// field gives a number or the bytes of field `wanted` of a protobuf message.
func field(message []byte, wanted uint64) (uint64, []byte) {
	for len(message) > 0 {
		tag, size := binary.Uvarint(message)
		if size <= 0 {
			return 0, nil
		}
		message = message[size:]
		value, size := binary.Uvarint(message)
		if size <= 0 || tag&7 != 0 && tag&7 != 2 {
			return 0, nil
		}
		message = message[size:]
		if tag&7 == 0 {
			if tag>>3 == wanted {
				return value, nil
			}
			continue
		}
		if value > uint64(len(message)) {
			return 0, nil
		}
		if tag>>3 == wanted {
			return 0, message[:value]
		}
		message = message[value:]
	}
	return 0, nil
}

// leader gives a connection to whoever leads.
func leader(addresses []string) (*connection, error) {
	block := headers("/etcdserverpb.Maintenance/Status")
	last := errors.New("no address")
	for _, address := range addresses {
		c, err := dial(address)
		if err != nil {
			last = err
			continue
		}
		status, err := c.call(block, nil)
		if err != nil {
			last = err
			continue
		}
		leads, _ := field(status, 4)
		_, header := field(status, 1)
		if me, _ := field(header, 2); leads != 0 && leads == me {
			return c, nil
		}
		last = errors.New("nobody leads")
		c.socket.Close()
	}
	return nil, last
}

// put fills in a PutRequest: key is field 1, value field 2, both shorter than 256 bytes.
func put(message []byte, key string, value []byte) []byte {
	message = append(append(message, 0x0a, byte(len(key))), key...)
	message = binary.AppendUvarint(append(message, 0x12), uint64(len(value)))
	return append(message, value...)
}

func measure(c *connection, seconds float64) ([]time.Duration, time.Duration, error) {
	block := headers("/etcdserverpb.KV/Put")
	value := make([]byte, valueBytes)
	random := rand.New(rand.NewSource(1))
	var times []time.Duration
	var message []byte
	counting := time.Now().Add(warmUp)
	end := counting.Add(time.Duration(seconds * float64(time.Second)))
	for {
		number := random.Intn(keys)
		random.Read(value)
		message = put(message[:0], fmt.Sprintf("bench/%04d/p%02d", number/16, number%16), value)
		start := time.Now()
		if start.After(end) {
			return times, start.Sub(counting), nil
		}
		if _, err := c.call(block, message); err != nil {
			return nil, 0, err
		}
		if start.After(counting) {
			times = append(times, time.Since(start))
		}
	}
}

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) < 3 {
		return errors.New("usage: etcd-puts SECONDS HOST:PORT...")
	}
	seconds, err := strconv.ParseFloat(arguments[1], 64)
	if err != nil || seconds <= 0 {
		return errors.New("SECONDS is a number above 0")
	}
	var c *connection
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if c, err = leader(arguments[2:]); err == nil {
			break
		}
		if time.Since(start) > patience {
			return fmt.Errorf("no leader of etcd within %v: %w", patience, err)
		}
	}
	times, counted, err := measure(c, seconds)
	if err != nil {
		return err
	}
	if len(times) == 0 {
		return errors.New("no put ended in the time")
	}
	sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
	at := func(share float64) float64 {
		return float64(times[int(share*float64(len(times)-1))].Nanoseconds()) / 1e3
	}
	fmt.Printf("{\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f,\"operations\":%d,\"ops_per_s\":%.1f}\n",
		at(0.5), at(0.99), at(0.999), at(1), len(times), float64(len(times))/counted.Seconds())
	return nil
}
