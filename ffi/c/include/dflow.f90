! dflow.f90: functions of dflow workflows in Fortran, over dflow.h.
!
! Compile this file with your program, and link libdflow: gfortran dflow.f90 program.f90 $(pkg-config --libs dflow)
!
! A program gives its work to dflow_run and stops with the result. The work is a function with bind(c) that gets a
! context. Every call is a function that returns a status: dflow_ok, another number from 0 on that is no error, or a
! negative one with a text in dflow_error_text().
module dflow
  use, intrinsic :: iso_c_binding
  implicit none
  private

  integer(c_int), parameter, public :: dflow_ok = 0, dflow_end = 1, dflow_would_block = 2, dflow_timed_out = 3, &
    dflow_interrupted = 4, dflow_unset = 5, dflow_ready = 6, dflow_error_argument = -1, dflow_error_handle = -2, &
    dflow_error_busy = -3, dflow_error_state = -4, dflow_error_name = -5, dflow_error_value = -6, &
    dflow_error_input = -7, dflow_error_output = -8, dflow_error_unread = -9, dflow_error_limit = -10, &
    dflow_error_system = -11, dflow_error_internal = -12, dflow_error_failed = -13

  ! Handles.
  type, bind(c), public :: dflow_input
    type(c_ptr) :: raw = c_null_ptr
  end type
  type, bind(c), public :: dflow_output
    type(c_ptr) :: raw = c_null_ptr
  end type
  type, bind(c), public :: dflow_view
    type(c_ptr) :: raw = c_null_ptr
  end type

  public :: dflow_run, dflow_error_text, dflow_fail, dflow_input_open, dflow_input_chunk, dflow_input_line, &
    dflow_input_record, dflow_input_read, dflow_input_take_view, dflow_input_close, dflow_view_data, dflow_view_release, &
    dflow_output_open, dflow_output_reserve, dflow_output_commit, dflow_output_write, dflow_output_record, &
    dflow_output_finish, dflow_part, dflow_attempt, dflow_param_int, dflow_param_double, dflow_param

  abstract interface
    ! A function of a workflow.
    function dflow_function(context, data) bind(c) result(status)
      import :: c_ptr, c_int
      type(c_ptr), value :: context, data
      integer(c_int) :: status
    end function
  end interface
  public :: dflow_function

  interface
    function c_serve(argc, argv, work, data) bind(c, name="dflow_serve") result(status)
      import :: c_int, c_ptr, c_funptr
      integer(c_int), value :: argc
      type(c_ptr), value :: argv, data
      type(c_funptr), value :: work
      integer(c_int) :: status
    end function
    function c_last_error() bind(c, name="dflow_last_error") result(text)
      import :: c_ptr
      type(c_ptr) :: text
    end function
    function c_strlen(text) bind(c, name="strlen") result(length)
      import :: c_ptr, c_size_t
      type(c_ptr), value :: text
      integer(c_size_t) :: length
    end function
    function c_fail(context, message) bind(c, name="dflow_fail") result(status)
      import :: c_ptr, c_int, c_char
      type(c_ptr), value :: context
      character(kind=c_char), intent(in) :: message(*)
      integer(c_int) :: status
    end function
    function c_input_open(context, name, input) bind(c, name="dflow_input_open") result(status)
      import :: c_ptr, c_int, c_char
      type(c_ptr), value :: context
      character(kind=c_char), intent(in) :: name(*)
      type(c_ptr), intent(inout) :: input
      integer(c_int) :: status
    end function
    function c_output_open(context, name, output) bind(c, name="dflow_output_open") result(status)
      import :: c_ptr, c_int, c_char
      type(c_ptr), value :: context
      character(kind=c_char), intent(in) :: name(*)
      type(c_ptr), intent(inout) :: output
      integer(c_int) :: status
    end function
    function c_param(context, name, text, length) bind(c, name="dflow_param") result(status)
      import :: c_ptr, c_int, c_char, c_size_t
      type(c_ptr), value :: context
      character(kind=c_char), intent(in) :: name(*)
      type(c_ptr), intent(inout) :: text
      integer(c_size_t), intent(inout) :: length
      integer(c_int) :: status
    end function
    function c_param_int(context, name, value) bind(c, name="dflow_param_int") result(status)
      import :: c_ptr, c_int, c_char, c_int64_t
      type(c_ptr), value :: context
      character(kind=c_char), intent(in) :: name(*)
      integer(c_int64_t), intent(inout) :: value
      integer(c_int) :: status
    end function
    function c_param_double(context, name, value) bind(c, name="dflow_param_double") result(status)
      import :: c_ptr, c_int, c_char, c_double
      type(c_ptr), value :: context
      character(kind=c_char), intent(in) :: name(*)
      real(c_double), intent(inout) :: value
      integer(c_int) :: status
    end function
    function c_part(context, part) bind(c, name="dflow_part") result(status)
      import :: c_ptr, c_int, c_int32_t
      type(c_ptr), value :: context
      integer(c_int32_t), intent(inout) :: part
      integer(c_int) :: status
    end function
    function c_attempt(context, attempt) bind(c, name="dflow_attempt") result(status)
      import :: c_ptr, c_int, c_int32_t
      type(c_ptr), value :: context
      integer(c_int32_t), intent(inout) :: attempt
      integer(c_int) :: status
    end function

    ! All bytes that are there now: a pointer for c_f_pointer, and their number. They may be read until the next call with
    ! the input. dflow_end at the end of the stream.
    function dflow_input_chunk(input, data, length) bind(c, name="dflow_input_chunk") result(status)
      import :: dflow_input, c_ptr, c_int, c_size_t
      type(dflow_input), value :: input
      type(c_ptr), intent(inout) :: data
      integer(c_size_t), intent(inout) :: length
      integer(c_int) :: status
    end function
    ! The next line without its newline.
    function dflow_input_line(input, data, length) bind(c, name="dflow_input_line") result(status)
      import :: dflow_input, c_ptr, c_int, c_size_t
      type(dflow_input), value :: input
      type(c_ptr), intent(inout) :: data
      integer(c_size_t), intent(inout) :: length
      integer(c_int) :: status
    end function
    ! The next length-delimited record.
    function dflow_input_record(input, data, length) bind(c, name="dflow_input_record") result(status)
      import :: dflow_input, c_ptr, c_int, c_size_t
      type(dflow_input), value :: input
      type(c_ptr), intent(inout) :: data
      integer(c_size_t), intent(inout) :: length
      integer(c_int) :: status
    end function
    ! Copies the next bytes, at most capacity, to a buffer.
    function dflow_input_read(input, buffer, capacity, length) bind(c, name="dflow_input_read") result(status)
      import :: dflow_input, c_ptr, c_int, c_size_t
      type(dflow_input), value :: input
      type(c_ptr), value :: buffer
      integer(c_size_t), value :: capacity
      integer(c_size_t), intent(inout) :: length
      integer(c_int) :: status
    end function
    ! The next bytes, at most so many, as a view, which may be kept until dflow_view_release.
    function dflow_input_take_view(input, most, view) bind(c, name="dflow_input_view") result(status)
      import :: dflow_input, dflow_view, c_int, c_size_t
      type(dflow_input), value :: input
      integer(c_size_t), value :: most
      type(dflow_view), intent(inout) :: view
      integer(c_int) :: status
    end function
    function dflow_input_close(input) bind(c, name="dflow_input_close") result(status)
      import :: dflow_input, c_int
      type(dflow_input), value :: input
      integer(c_int) :: status
    end function
    function dflow_view_data(view, data, length) bind(c, name="dflow_view_data") result(status)
      import :: dflow_view, c_ptr, c_int, c_size_t
      type(dflow_view), value :: view
      type(c_ptr), intent(inout) :: data
      integer(c_size_t), intent(inout) :: length
      integer(c_int) :: status
    end function
    function dflow_view_release(view) bind(c, name="dflow_view_release") result(status)
      import :: dflow_view, c_int
      type(dflow_view), value :: view
      integer(c_int) :: status
    end function
    ! Room for at least so many bytes in the output itself, to be filled and committed: a pointer for c_f_pointer, and how
    ! long it is.
    function dflow_output_reserve(output, length, data, room) bind(c, name="dflow_output_reserve") result(status)
      import :: dflow_output, c_ptr, c_int, c_size_t
      type(dflow_output), value :: output
      integer(c_size_t), value :: length
      type(c_ptr), intent(inout) :: data
      integer(c_size_t), intent(inout) :: room
      integer(c_int) :: status
    end function
    function dflow_output_commit(output, length) bind(c, name="dflow_output_commit") result(status)
      import :: dflow_output, c_int, c_size_t
      type(dflow_output), value :: output
      integer(c_size_t), value :: length
      integer(c_int) :: status
    end function
    ! Writes length bytes: c_loc of a variable or an array.
    function dflow_output_write(output, data, length) bind(c, name="dflow_output_write") result(status)
      import :: dflow_output, c_ptr, c_int, c_size_t
      type(dflow_output), value :: output
      type(c_ptr), value :: data
      integer(c_size_t), value :: length
      integer(c_int) :: status
    end function
    function dflow_output_record(output, data, length) bind(c, name="dflow_output_record") result(status)
      import :: dflow_output, c_ptr, c_int, c_size_t
      type(dflow_output), value :: output
      type(c_ptr), value :: data
      integer(c_size_t), value :: length
      integer(c_int) :: status
    end function
    function dflow_output_finish(output) bind(c, name="dflow_output_finish") result(status)
      import :: dflow_output, c_int
      type(dflow_output), value :: output
      integer(c_int) :: status
    end function
  end interface

contains

  ! Serves a function and returns the exit status of the program: call exit(dflow_run(work)).
  function dflow_run(work) result(status)
    procedure(dflow_function) :: work
    integer :: status
    status = int(c_serve(0_c_int, c_null_ptr, c_funloc(work), c_null_ptr))
  end function

  ! The text of the last error in this thread.
  function dflow_error_text() result(text)
    character(len=:), allocatable :: text
    text = to_text(c_last_error())
  end function

  ! Says why the function fails, and returns the status to be returned.
  function dflow_fail(context, message) result(status)
    type(c_ptr), intent(in) :: context
    character(len=*), intent(in) :: message
    integer(c_int) :: status
    status = c_fail(context, trim(message)//c_null_char)
  end function

  function dflow_input_open(context, name, input) result(status)
    type(c_ptr), intent(in) :: context
    character(len=*), intent(in) :: name
    type(dflow_input), intent(inout) :: input
    integer(c_int) :: status
    status = c_input_open(context, trim(name)//c_null_char, input%raw)
  end function

  function dflow_output_open(context, name, output) result(status)
    type(c_ptr), intent(in) :: context
    character(len=*), intent(in) :: name
    type(dflow_output), intent(inout) :: output
    integer(c_int) :: status
    status = c_output_open(context, trim(name)//c_null_char, output%raw)
  end function

  ! In a foreach, the number of the part, from 0 on; dflow_unset if there is none.
  function dflow_part(context, part) result(status)
    type(c_ptr), intent(in) :: context
    integer(c_int32_t), intent(inout) :: part
    integer(c_int) :: status
    status = c_part(context, part)
  end function

  ! The number of this attempt, from 1 on.
  function dflow_attempt(context, attempt) result(status)
    type(c_ptr), intent(in) :: context
    integer(c_int32_t), intent(inout) :: attempt
    integer(c_int) :: status
    status = c_attempt(context, attempt)
  end function

  ! A parameter as text; dflow_unset, and text as it is, if the workflow file does not set it.
  function dflow_param(context, name, text) result(status)
    type(c_ptr), intent(in) :: context
    character(len=*), intent(in) :: name
    character(len=:), allocatable, intent(inout) :: text
    integer(c_int) :: status
    type(c_ptr) :: found
    integer(c_size_t) :: length
    found = c_null_ptr
    length = 0
    status = c_param(context, trim(name)//c_null_char, found, length)
    if (status == dflow_ok) text = to_text(found)
  end function

  ! A parameter as a whole number; dflow_unset, and value as it is, if the workflow file does not set it.
  function dflow_param_int(context, name, value) result(status)
    type(c_ptr), intent(in) :: context
    character(len=*), intent(in) :: name
    integer(c_int64_t), intent(inout) :: value
    integer(c_int) :: status
    status = c_param_int(context, trim(name)//c_null_char, value)
  end function

  ! A parameter as a number; dflow_unset, and value as it is, if the workflow file does not set it.
  function dflow_param_double(context, name, value) result(status)
    type(c_ptr), intent(in) :: context
    character(len=*), intent(in) :: name
    real(c_double), intent(inout) :: value
    integer(c_int) :: status
    status = c_param_double(context, trim(name)//c_null_char, value)
  end function

  function to_text(pointer) result(text)
    type(c_ptr), intent(in) :: pointer
    character(len=:), allocatable :: text
    character(kind=c_char), pointer :: letters(:)
    integer :: at
    call c_f_pointer(pointer, letters, [c_strlen(pointer)])
    allocate (character(len=size(letters)) :: text)
    do at = 1, size(letters)
      text(at:at) = letters(at)
    end do
  end function
end module
