package ksock

// Readers is the number of goroutines that wait for any message.
func (k *Ksock) Readers() int { return int(k.readers.Load()) }
