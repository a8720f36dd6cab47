// Package services plays what people do with services, on lab hosts with real
// containers: one manager and two workers, one story after another.
//
// It owns the stories (-tags lab). How hosts are made is internal/lab's; what
// becomes of services when hosts die is integration/walkthrough's.
package services
