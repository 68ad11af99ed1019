! Replaces each number by the average of itself and those before it, as many as the parameter 'window' says.
module smoothing
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: int64
  use dflow
  implicit none
  private
  public :: smooth

  integer(c_size_t), parameter :: number = 8, batch = 4096
  integer(c_int64_t), parameter :: longest = 1000000

contains

  function smooth(context, data) bind(c) result(status)
    type(c_ptr), value :: context, data
    integer(c_int) :: status
    type(dflow_input) :: input
    type(dflow_output) :: output
    integer(c_int64_t) :: window, seen
    real(c_double), allocatable :: last(:)
    real(c_double), target :: values(batch)
    real(c_double), pointer :: averages(:)
    type(c_ptr) :: place
    integer(c_size_t) :: have, got, room, whole, at

    if (c_associated(data)) continue
    window = 5
    status = dflow_param_int(context, "window", window)
    if (status < 0) return
    if (window < 1 .or. window > longest) then
      status = dflow_fail(context, "the parameter 'window' is not between 1 and 1000000")
      return
    end if
    status = dflow_input_open(context, "values", input)
    if (status < 0) return
    status = dflow_output_open(context, "values", output)
    if (status < 0) return

    allocate (last(window))
    last = 0
    seen = 0
    have = 0
    do
      ! A stream is cut anywhere, also within a number, so the numbers are read behind what is left of the last one.
      status = dflow_input_read(input, c_loc_at(values, have), batch*number - have, got)
      if (status < 0) return
      if (status == dflow_end) exit
      have = have + got
      whole = have/number
      if (whole == 0) cycle
      ! The averages are written where their readers find them.
      status = dflow_output_reserve(output, whole*number, place, room)
      if (status < 0) return
      call c_f_pointer(place, averages, [whole])
      do at = 1, whole
        last(mod(seen, window) + 1) = values(at)
        seen = seen + 1
        averages(at) = average(last, seen)
      end do
      status = dflow_output_commit(output, whole*number)
      if (status < 0) return
      call keep_rest(values, whole*number, have)
    end do
    if (have > 0) then
      status = dflow_fail(context, "the input ends within a number")
      return
    end if
    status = dflow_ok
  end function

  ! The average of the numbers in a ring, from the oldest to the newest, of which so many have come.
  function average(ring, seen) result(mean)
    real(c_double), intent(in) :: ring(:)
    integer(c_int64_t), intent(in) :: seen
    real(c_double) :: mean
    integer(c_int64_t) :: count, at
    count = min(seen, size(ring, kind=int64))
    mean = 0
    do at = seen - count, seen - 1
      mean = mean + ring(mod(at, size(ring, kind=int64)) + 1)
    end do
    mean = mean/real(count, c_double)
  end function

  ! The address of a byte of an array.
  function c_loc_at(values, offset) result(place)
    real(c_double), target, intent(in) :: values(:)
    integer(c_size_t), intent(in) :: offset
    type(c_ptr) :: place
    integer(c_signed_char), pointer :: bytes(:)
    call c_f_pointer(c_loc(values), bytes, [size(values)*number])
    place = c_loc(bytes(offset + 1))
  end function

  ! Moves the bytes behind the first 'used' of 'have' to the beginning.
  subroutine keep_rest(values, used, have)
    real(c_double), target, intent(inout) :: values(:)
    integer(c_size_t), intent(in) :: used
    integer(c_size_t), intent(inout) :: have
    integer(c_signed_char), pointer :: bytes(:)
    call c_f_pointer(c_loc(values), bytes, [size(values)*number])
    bytes(1:have - used) = bytes(used + 1:have)
    have = have - used
  end subroutine
end module

program climate_smooth
  use dflow
  use smoothing
  implicit none
  call exit(dflow_run(smooth))
end program
