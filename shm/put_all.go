//go:build kbuscheck || !amd64 || race

package shm

// PutAll puts x into the words of w from the front, which are at least as many.
func PutAll(w []Word, x [][3]uint64) {
	for i := range x {
		for j := range x[i] {
			w[3*i+j].Put(x[i][j])
		}
	}
}
