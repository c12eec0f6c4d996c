package ring

// The old texts are short, so that they survive what is done around them.
// TestPlantedBugsApply tells which do not; README.md has a table of all.

const (
	four      = "four Ksocks, all kinds of messages"
	asleep    = "two senders, a Listener that sleeps"
	everybody = "scheduler, random"
	late      = "scheduler, one preemption"
	jostled   = "operations at once, jostled"
	shrunk    = "lists of operations, shrunk"
)

var plantedBugs = []planted{
	{
		bug:   "T1 the sender's bit of a claimed entry goes with the arming",
		edits: []replacement{{"block.go", "m.head|headArmed|mask)", "m.head&^headSender|headArmed|mask)"}},
		layer: everybody, in: "a block that goes to another sender at once",
	},
	{
		bug:   "T2 cur is not looked at again after a step of a plan is read",
		edits: []replacement{{"log.go", "t[2].Load()\n\t\tif b.w[wCur].Load() != a {", "t[2].Load()\n\t\tif false {"}},
		layer: everybody, in: four, also: jostled,
	},
	{
		bug: "T2 cur is looked at before a step of a plan is read, not after",
		edits: []replacement{
			{"log.go", "\t\twhere, old, new := t[0].Load()", "\t\tvalid := b.w[wCur].Load() == a\n\t\twhere, old, new := t[0].Load()"},
			{"log.go", "t[2].Load()\n\t\tif b.w[wCur].Load() != a {", "t[2].Load()\n\t\tif !valid {"},
		},
		layer: "scheduler, all interleavings", in: "a bind against a send",
	},
	{
		bug:   "T3 copies before bits",
		edits: []replacement{{"plan.go", "\tp.arm(m)\n\tfor i := range p.to {", "\tdefer p.arm(m)\n\tfor i := range p.to {"}},
		layer: everybody, in: four,
	},
	{
		bug:   "T3 in a batch",
		edits: []replacement{{"batch.go", "\t\tp.arm(m) // before any copy (T3)\n", "\t\tdefer p.arm(m)\n"}},
		layer: everybody, in: "a batch, and a Listener",
	},
	{
		bug:   "a batch is not made good for the tables again",
		edits: []replacement{{"batch.go", "range ds {\n\t\t\tif err := d.prepare", "range ds {\n\t\t\tif d.version != 0 {\n\t\t\t\tcontinue\n\t\t\t}\n\t\t\tif err := d.prepare"}},
		layer: everybody, in: "a batch against a bind",
	},
	{
		bug:   "a batch takes one place too many",
		edits: []replacement{{"batch.go", "(q.limit-used-1)/uint64(n)+1", "(q.limit-used)/uint64(n)+1"}},
		layer: everybody, in: "a batch for which there is no room, and a reader who makes some",
		also: shrunk,
	},
	{
		bug:   "T5 the waker clears the sleeper's flag",
		edits: []replacement{{"log.go", "if b.w[s+sSleeping].Load() != 0 {", "if b.w[s+sSleeping].CompareAndSwap(1, 0) {"}},
		layer: everybody, in: "a sender stops for good while the Listener sleeps", says: "sleeps for ever", few: true,
	},
	{
		bug:   "T6 urgent copies without a freeze",
		edits: []replacement{{"plan.go", "if !p.freeze(g.slot) {", "if false {"}},
		layer: everybody, in: four, also: jostled,
	},
	{
		bug: "T8 a release ignores the generation",
		edits: []replacement{
			{"block.go", "if headGen(b.w[at+mHead].Load()) != gen {", "if false {"},
			{"block.go", "if headGen(w) != gen || w&bit == 0 {", "if w&bit == 0 {"},
		},
		layer: everybody, in: "a late helper of an unbind, and the block used again",
	},
	{
		bug:   "T11 who loses carries its own plan out",
		edits: []replacement{{"log.go", "CompareAndSwap(a, mine) {\n\t\treturn nil", "CompareAndSwap(a, mine) {\n\t\treturn p.finish(mine)"}},
		layer: "scheduler, all interleavings", in: "a claimed entry, a helper, and a reader that makes room: they may disagree",
	},
	{
		bug:   "an empty queue is not settled",
		edits: []replacement{{"receive.go", "if err := c.settle(); err != nil {", "if err := error(nil); err != nil {"}},
		layer: everybody, in: "one sender, two Listeners, and back",
	},
	{
		bug:   "no wake-up of the recipient",
		edits: []replacement{{"plan.go", "\t\t\tp.wake(r.slot)\n", "\t\t\t_ = r\n"}},
		layer: everybody, in: asleep, says: "sleeps for ever",
	},
	{
		bug:   "the sleeper looks before it sets its flag",
		edits: []replacement{{"wait.go", "c.sleepers.enter(room)\n\t\tok, err := ready()", "ok, err := ready()\n\t\tc.sleepers.enter(room)"}},
		layer: everybody, in: asleep, says: "sleeps for ever",
	},
	{
		bug:   "a reader does not wake who waits for room",
		edits: []replacement{{"receive.go", "return used+1 >= min(limit, ", "return used >= laneMod+min(limit, "}},
		layer: everybody, in: "ALL_OR_WAIT that sleeps until there is room", says: "sleeps for ever",
	},
	{
		bug:   "steps are stores, not swaps",
		edits: []replacement{{"log.go", "b.w[at].Advance(old, new)", "b.w[at].Store(new)"}},
		layer: everybody, in: four,
	},
	{
		bug:   "a pop is a store",
		edits: []replacement{{"receive.go", "if !b.w[s+sRead].CompareAndSwap(uint64(r), uint64(next)) {", "if b.w[s+sRead].Store(uint64(next)); false {"}},
		layer: everybody, in: four,
	},
	{
		bug:   "a reader takes a copy of the lap before",
		edits: []replacement{{"receive.go", "laneStamp(word) == (pos>>b.qbits+1)&stampMask", "pos == pos"}},
		layer: "scheduler, all interleavings", in: "the smallest queue, round and round",
	},
	{
		bug:   "a dropped re-check: recipients are not worked out afresh",
		edits: []replacement{{"draft.go", "v != d.version {", "d.version == 0 && v != 0 {"}},
		layer: everybody, in: four,
	},
	{
		bug:   "both sides of a Ksock claim by the same word",
		edits: []replacement{{"layout.go", ") + sReadCmd", ") + sCmd"}},
		layer: everybody, in: "a Ksock that reads, with kept events coming in, and sends",
	},
	{
		bug:   "a helper's plan does not tell the outcome",
		edits: []replacement{{"log.go", "p.plan.set(at+1, out, outWord(out>>36, o.code, o.handle))", "_, _ = out, o"}},
		layer: everybody, in: four, says: "has no outcome", also: shrunk,
	},
	{
		bug:   "an answer leaves its place held",
		edits: []replacement{{"plan.go", "o+1<<16-1)", "o+1<<16)"}},
		layer: everybody, in: four, also: shrunk,
	},
	{
		bug:   "room does not count places held",
		edits: []replacement{{"plan.go", "used := q.msgs + q.flush + q.owing\n\treturn", "used := q.msgs + q.flush\n\treturn"}},
		layer: everybody, in: "a place held for an answer against another's message",
	},
	{
		bug:   "a claimed entry counts its serial number twice",
		edits: []replacement{{"plan.go", "\tif p.serial == 0 {\n", "\tif !p.own && p.serial > 0 {\n\t\tp.serial++\n\t}\n\tif p.serial == 0 {\n"}},
		layer: everybody, in: four, also: shrunk,
	},
	{
		bug:   "a value that a plan expects recurs",
		edits: []replacement{{"plan.go", "p.bump(wExtra, extra)", "p.bump(wSkips, -extra)"}},
		layer: everybody, in: "a batch against a bind",
	},
	{
		bug:   "a removed Request is not marked orphan",
		edits: []replacement{{"control.go", "p.orphan(&m, n)", "_ = n"}},
		layer: everybody, in: "a Request against two Repliers' succession",
	},
	{
		bug:   "a removed message keeps its bit",
		edits: []replacement{{"control.go", "p.step(stepRelease, m.h, headGen(m.head), uint64(i))", "_ = i"}},
		layer: everybody, in: four,
	},
	{
		bug:   "the head grows by too little in a removal",
		edits: []replacement{{"control.go", "head += compact(normal)", "head += max(1, compact(normal)) - 1"}},
		layer: everybody, in: four,
	},
	{
		bug:   "no GoneAway",
		edits: []replacement{{"repair.go", "return a.status(asker, idx, ver, id, GoneAway)", "_ = ver\n\t\treturn nil"}},
		layer: everybody, in: four,
	},
	{
		bug:   "no Ignored",
		edits: []replacement{{"repair.go", "if err := a.ignored(slot, id); err != nil {", "if err := error(nil); err != nil {"}},
		layer: everybody, in: four,
	},
	{
		bug:   "a dead process's blocks are not taken back",
		edits: []replacement{{"repair.go", "if err := a.reclaim(slot); err != nil {", "if err := error(nil); err != nil {"}},
		layer: everybody, in: four,
	},
	{
		bug: "a dead Ksock's slot is free before its memory is back",
		edits: []replacement{{"repair.go", "if err := a.reclaim(slot); err != nil {",
			"defer a.reclaim(slot)\n\tif err := error(nil); err != nil {"}},
		layer: "scheduler, a death at each step", in: "supervisor, reap a Listener that has a message in its hands",
	},
	{
		bug: "T4 copies without a lap, so that an old one recurs",
		edits: []replacement{
			{"plan.go", "laneWord(pos>>b.qbits+1, ", "laneWord(0, "},
			// and a reader that goes by the tail, then
			{"receive.go", "!b.there(e, c.at(r))", "b.w[s+sTail].Load()&(laneMod-1) == r.head()"},
			{"receive.go", "b.there(g.next, c.at(g.read))", "b.w[c.s+sTail].Load()&(laneMod-1) != g.read.head()"},
		},
		layer: late, in: "a late helper of a message, and the lane goes round with the same copies", few: true,
	},
	{
		bug: "T7 the lanes are looked at by two reads",
		edits: []replacement{{"receive.go", "\t\t\tnext = makeRead(r.es(), false, 0, r.head()+1)",
			"\t\t\th := r.head()\n\t\t\tif r = readWord(b.w[s+sRead].Load()); r.frozen() || r.head() != h {\n\t\t\t\tcontinue\n\t\t\t}\n" +
				"\t\t\tnext = makeRead(r.es(), false, r.ud(), r.head()+1)"}},
		layer: everybody, in: "a reader between its lanes, an urgent message, and then the queue is full",
	},
	{
		bug: "T9 a freeze without a stamp",
		edits: []replacement{
			{"plan.go", "if r.es() == esStamp(p.seq) {", "if r.frozen() {"},
			{"plan.go", "uint64(makeRead(esStamp(p.seq), true, r.ud(), r.head()))", "uint64(makeRead(r.es(), true, r.ud(), r.head()))"},
			{"plan.go", "uint64(makeRead(esStamp(p.seq), false, ud, head))", "uint64(makeRead(q.rw.es(), false, ud, head))"},
			{"receive.go", "esStamp(curSeq(a)) != r.es()", "false"},
		},
		layer: everybody, in: "an unbind that removes nothing, and a late helper", says: "frozen",
	},
	{
		bug:   "T10 a dead Ksock's memory is taken back before the log is idle",
		edits: []replacement{{"repair.go", "if _, err := a.p.idle(); err != nil {", "if err := error(nil); err != nil {"}},
		layer: everybody, in: "a process dies in a send after its Ksock was closed, and is reaped",
	},
	{
		bug:   "T10 a dead supervisor's memory is taken back before the log is idle",
		edits: []replacement{{"admin.go", "if _, err := a.p.idle(); err != nil {", "if err := error(nil); err != nil {"}},
		layer: "scheduler, a death at each step", in: "supervisor, bind a Replier, reported", few: true,
	},
	{
		bug:   "T12 an outcome does not tell of which try it is",
		edits: []replacement{{"log.go", "Load()>>36 + 1) & (1<<28 - 1)", "Load() >> 36) & (1<<28 - 1)"}},
		layer: everybody, in: "a late helper of a claimed entry, and the same sender's next one",
	},
	{
		bug: "T13 group words do not tell that they were armed",
		edits: []replacement{
			{"bits.go", "if armed {", "if armed && false {"},
			{"block.go", "if w>>33 != gen&(1<<31-1) || w>>32&1 == 0 {", "if w>>33 != gen&(1<<31-1) {"},
		},
		layer: late, in: "a tree of bits, a late helper, and the last reader dies",
	},
	{
		bug: "a missing generation: a block is free under the one that it had",
		edits: []replacement{
			{"block.go", "n = (gen + 1) & genMask << 30", "n = gen & genMask << 30"},
			{"draft.go", "d.gone = false\n\t\tgen++", "d.gone = false"},
			{"draft.go", "b.clearHead(b.block(d.h), gen, headSender)\n\t\tgen++", "b.clearHead(b.block(d.h), gen, headSender)"},
		},
		layer: everybody, in: "a late helper of an unbind, and the block used again",
	},
	{
		bug:   "a missing generation: a block of the cache is taken if it is free",
		edits: []replacement{{"arena.go", "if w == f.head {", "if headFree(w) {"}},
		layer: "a sequence", in: "TestMixedSizes",
	},
	{
		bug:   "kept events come in newest first",
		edits: []replacement{{"plan.go", "int((head+k)&b.kmask)", "int((head+q.flush-1-k)&b.kmask)"}},
		layer: everybody, in: "two events kept aside, and then room for both", few: true,
	},
	{
		bug:   "one who waits for room is woken, not all",
		edits: []replacement{{"log.go", "m != 0; m &= m - 1 {", "m != 0; m = 0 {"}},
		layer: everybody, in: "two senders sleep until there is room for both", says: "sleeps for ever",
	},
	{
		bug:   "freeing early: the reader's bit goes before the reader is done",
		edits: []replacement{{"receive.go", "\tc.received++\n", "\tc.b.release(m.h, m.gen, m.idx)\n\tc.received++\n"}},
		layer: everybody, in: "a message in its reader's hands, and its sender goes on",
	},
	{
		bug:   "freeing early: the sender lets go of its readers' bits, too",
		edits: []replacement{{"draft.go", "b.clearHead(b.block(d.h), gen, headSender)", "b.clearHead(b.block(d.h), gen, headSender|headMask)"}},
		layer: everybody, in: four,
	},
	{
		bug: "swapped stores: a plan counts before it is written to its end",
		edits: []replacement{
			{"log.go", "\t\tp.plan.end()\n\t\t// SYNC", "\t\t// SYNC"},
			{"log.go", "{\n\t\t\tif d != nil {\n\t\t\t\td.tried, d.gone", "{\n\t\t\tp.plan.end()\n\t\t\tif d != nil {\n\t\t\t\td.tried, d.gone"},
		},
		layer: "scheduler, random, each Put a step", in: four,
	},
	{
		bug: "swapped stores: an entry is claimed before it is written",
		edits: []replacement{
			{"log.go", "\t\tb.w[cmd].Put(e.cmd())\n", ""},
			{"log.go", "\t\t\tcontinue\n\t\t}\n\t\tif d != nil {\n\t\t\td.tried = true\n", "\t\t\tcontinue\n\t\t}\n\t\tb.w[cmd].Put(e.cmd())\n\t\tif d != nil {\n\t\t\td.tried = true\n"},
		},
		layer: "scheduler, random, each Put a step", in: four,
	},
	{
		bug: "swapped stores: what a reader took is named for the supervisor after the pop",
		edits: []replacement{
			{"receive.go", "\t\tb.w[held].Put(uint64(laneHandle(e)))\n", ""},
			{"receive.go", "\t\there.Forget(e, uint64(next), c.recv.state())\n", "\t\tb.w[held].Put(uint64(laneHandle(e)))\n\t\there.Forget(e, uint64(next), c.recv.state())\n"},
		},
		layer: "an end at each write", in: "TestClientDeaths",
	},
	{
		bug: "swapped stores: what a reader lets go of is no longer named for the supervisor",
		edits: []replacement{
			{"receive.go", "\tc.b.release(h, gen, idx) //", "\tc.b.w[held].Put(0)\n\tc.b.release(h, gen, idx) //"},
		},
		layer: "scheduler, a death at each step", in: "victim, receive and release",
	},
	{
		bug: "swapped stores: a block of the cache is named for the supervisor after it is taken",
		edits: []replacement{
			{"arena.go", "\t\t\tb.w[held].Put(uint64(f.h))\n", ""},
			{"arena.go", "{ // SYNC E3 acquire\n", "{ // SYNC E3 acquire\n\t\t\t\tb.w[held].Put(uint64(f.h))\n"},
		},
		layer: "an end at each write", in: "TestClientDeaths",
	},
	{
		bug: "who makes room looks for those who wait before the pop",
		edits: []replacement{
			{"receive.go", "// SYNC E7: the pop.", "wanted := b.roomWanted()\n\t\t// SYNC E7: the pop."},
			{"receive.go", "wanted := b.roomWanted() && ", "wanted = wanted && "},
		},
		layer: everybody, in: "ALL_OR_WAIT that sleeps until there is room", says: "sleeps for ever",
	},
	{
		bug: "who makes room reads the tail before the pop",
		edits: []replacement{
			{"receive.go", "// SYNC E7: the pop.", "tail := b.w[s+sTail].Load()\n\t\t// SYNC E7: the pop."},
			{"receive.go", "c.wasFull(next)", "uint64(max(0, int64(tail-c.at(next))))+1 >= uint64(b.cfg.QueueSlots)"},
		},
		layer: everybody, in: "a sender sleeps for the place that another took while the reader looked", says: "sleeps for ever",
	},
	{
		bug:   "a dropped re-check: a binding is not looked at again after its name is read",
		edits: []replacement{{"route.go", "return x, b.w[c+bBorn].Load() == born && ", "return x, "}},
		layer: everybody, in: "a bind in the cell of one that was undone, against two senders",
	},
	{
		bug:   "a bind's cell counts before the bind is in the log",
		edits: []replacement{{"admin.go", "b.w[c+bBorn].Store(v + 1)", "b.w[c+bBorn].Store(v)"}},
		layer: everybody, in: "a bind in the cell of one that was undone, against two senders",
	},
}
