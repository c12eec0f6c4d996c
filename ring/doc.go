// Package ring is the heart of a bus: the layout of its region, the log, the
// queues, the ledger of Requests, the arena, the rules of delivery, and the
// repair after a death. It makes no promise of stability; applications use
// package ksock.
package ring
