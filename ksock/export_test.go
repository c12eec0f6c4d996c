package ksock

// Readers is the number of goroutines that wait for any message.
func (k *Ksock) Readers() int {
	k.c.Reading.Lock()
	defer k.c.Reading.Unlock()
	return k.readers
}
