// Package y4m reads and writes YUV4MPEG2, the uncompressed video that ffmpeg
// and the mjpegtools put through pipes, and says how such a stream travels on
// a bus.
//
// A stream is one header line ("YUV4MPEG2 W1920 H1080 F25:1 ..."), then for
// each frame a line ("FRAME", perhaps with parameters) and the planes, whose
// size follows from the header. Lines are kept as they came, so that what is
// written is byte for byte what was read.
//
// The pixels are never buffered here: a Reader reads them straight into the
// caller's memory and a Writer writes them straight out of it. With the
// caller's memory in a bus's arena a frame is copied once on its way in (from
// the pipe into the arena) and once on its way out.
//
// # On the bus
//
// Every message of a stream bears the stream's name and is complete in
// itself: a Packet's prefix carries the stream's header line, so that a
// Listener that comes in the middle needs nothing that was said before.
// Frames are numbered from 0, so that each Listener counts by itself what it
// missed. After the last frame comes an End, whose number is the count of
// all frames.
//
// A Listener without room misses an End like any other message. The sender is
// therefore the Replier of the stream's name with ".End" added, and answers
// Requests of that name when the stream has ended, with the same End as the
// Reply's data. A Listener asks when it has its first frame: the place for the
// answer is held in its queue (SPEC R5.3), so the answer always comes, behind
// all frames (R3.5); and if the sender dies, the bus answers for it (R5.6).
package y4m
